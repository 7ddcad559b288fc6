// The draft of an edit. What is typed is kept at once on this device and soon after on the server. On opening, this device's draft
// counts where it goes on from the server's, else the server's. Clocks of two devices are never compared: `at` only names a draft, and
// `since` has the names of those that the server may hold if no other page has sent one.
import { $, Answer, banner, clock, data, post } from "./page.mjs";
import { sending } from "./verdict.mjs";

const KEY = `redline ${data.uid} ${data.state === "deciding" ? "decide " : ""}${data.work}`;
const LOST = "This text was changed in another window or on another device. What you type here is not saved any more: copy what you want to keep, then reload the page to go on with the other text.";
const AWAY = "You were away for so long that somebody else may have this item now. Try to submit, or copy what you want to keep.";

export class Draft {
  /** `content()`: {text, note, reasons}, what is to be kept now. */
  constructor(content) {
    this.content = content;
    this.at = data.draftAt;
    this.since = [data.draftAt];
    this.dirty = this.busy = this.lost = this.offline = false;
    this.local = true;
    this.timer = 0;
    addEventListener("online", () => this.save());
    addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden" && this.dirty) this.save(); });
    setInterval(() => { if (Date.now() - clock.last < 300000 && !this.dirty) this.save(); }, 60000); // the lease goes on while somebody is here
  }

  /** On the server, a draft belongs to an item in hand, or to one that came back. */
  get onServer() { return data.state === "open" || data.returned; }

  changed() {
    this.at = Math.max(Date.now(), this.at + 1);
    this.keep();
    this.dirty = true;
    this.later(1000);
  }

  keep() {
    const { at, since } = this;
    try {
      localStorage.setItem(KEY, JSON.stringify({ ...this.content(), at, since, seconds: clock.seconds, revision: data.revision }));
    } catch {
      this.local = false; // full or switched off: the server's copy is the only one
    }
  }

  forget() {
    try {
      localStorage.removeItem(KEY);
    } catch {
      this.local = false;
    }
  }

  stop() { clearTimeout(this.timer); }

  later(pause) {
    this.stop();
    this.timer = setTimeout(() => this.save(), pause);
  }

  async save() {
    this.stop();
    if (sending() || this.busy || !this.onServer || this.lost) return;
    const { at, dirty, since } = this, { text, note } = this.content();
    this.busy = true;
    if (dirty && !since.includes(at)) this.since = [...since, at]; // it may arrive though no answer does
    try {
      const { held, newer } = await post("/api/draft", { work: data.work, text: dirty ? text : null, note, at, since });
      if (this.offline) banner("");
      this.offline = false;
      this.answered(held, newer, at, dirty);
    } catch (error) {
      if (!(error instanceof Answer)) throw error;
      if (error.status) { banner(error.message, "error"); return; }
      this.offline = true;
      $("saved").textContent = this.local ? "No connection; kept on this device" : "No connection; keep this page open";
      this.later(5000);
    } finally {
      this.busy = false;
    }
  }

  answered(held, newer, at, dirty) {
    if (newer) {
      this.lost = true;
      $("saved").textContent = "Not saved: changed in another window";
      banner(LOST, "warn");
    } else if (!held) {
      this.lost = true;
      banner(AWAY, "warn");
    } else {
      if (dirty) this.since = [at];
      this.dirty = this.at !== at;
      if (this.dirty) this.later(1000);
      else if (dirty) { this.keep(); $("saved").textContent = "Saved"; }
    }
  }

  /** What to open with: {text, note, reasons, older}; `older`: this device's own text, where the server's other one counts. */
  first(ours) {
    const mine = this.remembered();
    const since = mine?.since ?? [];
    const unsaved = mine !== null && mine.at !== ours.at && !since.includes(mine.at); // the server was not heard to have it
    const goesOn = unsaved && since.includes(ours.at) && mine.revision === data.revision;
    clock.seconds = mine?.seconds ?? 0;
    this.at = goesOn ? mine.at : ours.at;
    if (goesOn) {
      this.since = [...since, mine.at]; // it may be on its way since before a reload
      this.dirty = true;
      $("saved").textContent = "Restored";
      this.later(300);
      return { ...mine, older: null };
    }
    if (data.draft !== null) $("saved").textContent = "Restored";
    const older = unsaved && mine.text !== ours.text ? mine.text : null;
    return { ...ours, note: ours.note || (unsaved ? mine.note : ""), reasons: mine?.at === ours.at ? mine.reasons : null, older };
  }

  remembered() {
    try {
      return JSON.parse(localStorage.getItem(KEY)) ?? null;
    } catch {
      return null; // storage is switched off, or holds something else
    }
  }
}
