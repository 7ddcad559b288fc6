// The edit page. What is typed is kept at once on this device and soon after on the server.
import { change } from "./diff.mjs";
import { draw } from "./redline.mjs";
import { $, Answer, banner, button, clock, data, dialog, finish, plain, post, sending, toggleNote, wire } from "./page.mjs";

const editor = $("editor"), note = $("note");
const KEY = `redline ${data.uid} ${data.work}`;
const OUR_NOTE = data.note;

// ---- the draft: this device's where it goes on from the server's, else the server's. Clocks of two devices are never compared:
// `at` only names a draft, and `since` has the names of those that the server may hold if no other page has sent one.

function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? null;
  } catch {
    return null; // storage is switched off, or holds something else
  }
}

function remember() {
  draft.at = Math.max(Date.now(), draft.at + 1);
  keep();
  draft.dirty = true;
  later(1000);
}

function keep() {
  const { at, since } = draft;
  try {
    localStorage.setItem(KEY, JSON.stringify({ text: editor.value, note: note.value, at, since, seconds: clock.seconds }));
  } catch {
    draft.local = false; // full or switched off: the server's copy is the only one
  }
}

const draft = { at: data.draftAt, since: [data.draftAt], dirty: false, local: true, timer: 0, busy: false, lost: false };

function later(pause) {
  clearTimeout(draft.timer);
  draft.timer = setTimeout(save, pause);
}

async function save() {
  clearTimeout(draft.timer);
  if (sending() || draft.busy || data.state === "done" || draft.lost) return;
  const { at, dirty, since } = draft;
  draft.busy = true;
  if (dirty && !since.includes(at)) draft.since = [...since, at]; // it may arrive though no answer does
  try {
    const { held, newer } = await post("/api/draft", { work: data.work, text: dirty ? editor.value : null, note: note.value, at, since });
    if (draft.offline) banner("");
    draft.offline = false;
    if (newer) {
      draft.lost = true;
      $("saved").textContent = "Not saved: changed in another window";
      banner("This text was changed in another window or on another device. What you type here is not saved any more: copy what you want to keep, then reload the page to go on with the other text.", "warn");
    } else if (!held && data.state === "open") {
      draft.lost = true;
      banner("You were away for so long that somebody else may have this item now. Try to submit, or copy what you want to keep.", "warn");
    } else {
      if (dirty) draft.since = [at];
      draft.dirty = draft.at !== at;
      if (draft.dirty) later(1000);
      else if (dirty) { keep(); $("saved").textContent = "Saved"; }
    }
  } catch (error) {
    if (!(error instanceof Answer)) throw error;
    if (error.status) { banner(error.message, "error"); return; }
    draft.offline = true;
    $("saved").textContent = draft.local ? "No connection; kept on this device" : "No connection; keep this page open";
    later(5000);
  } finally {
    draft.busy = false;
  }
}

addEventListener("online", save);
addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden" && draft.dirty) save(); });
setInterval(() => { if (Date.now() - clock.last < 300000 && !draft.dirty) save(); }, 60000); // the lease goes on while somebody is here

// ---- undo and redo: our own, because resets and drafts must be undone too

const past = [], future = [];
let shown = { text: "", from: 0, to: 0 }, kind = "", spaced = false, when = 0;

function snapshot() {
  return { text: editor.value, from: editor.selectionStart, to: editor.selectionEnd };
}

function step(from, to) {
  if (!from.length) return;
  to.push(snapshot());
  shown = from.pop();
  editor.value = shown.text;
  editor.setSelectionRange(shown.from, shown.to);
  kind = "";
  changed();
}

function replace(text) {
  if (text === editor.value) return;
  past.push(snapshot());
  future.length = 0;
  editor.value = text;
  kind = "";
  changed();
}

editor.addEventListener("input", (event) => {
  const typing = /^(insertText|deleteContentBackward|deleteContentForward|insertCompositionText)$/.test(event.inputType);
  const space = /\s/.test(event.data ?? "");
  if (!typing || event.inputType !== kind || (space && !spaced) || Date.now() - when > 1500) { // a step is a word and the space before it
    past.push(shown);
    if (past.length > 1000) past.shift();
  }
  future.length = 0;
  kind = typing ? event.inputType : "";
  spaced = space;
  when = Date.now();
  changed();
});
editor.addEventListener("beforeinput", (event) => {
  if (event.inputType === "historyUndo" || event.inputType === "historyRedo") {
    event.preventDefault();
    if (event.inputType === "historyUndo") step(past, future);
    else step(future, past);
  }
});
document.addEventListener("selectionchange", () => { if (document.activeElement === editor) shown = snapshot(); });

// ---- the redline and the meter

let amount = { changed: 0, of: 0, ratio: 0 }, drawn = 0, took = 0;

function changed() {
  shown = snapshot();
  asked = "";
  if (!draft.lost) banner("");
  remember();
  clearTimeout(drawn);
  drawn = setTimeout(show, took > 40 ? 250 : 0);
}

function show() {
  const start = performance.now();
  const { spacing, coarse } = draw($("redline"), data.original, editor.value);
  amount = change(data.original, editor.value);
  took = performance.now() - start;
  const limit = data.maxRatio, over = amount.ratio > limit && !amount.atMost, near = !over && amount.ratio > 0.8 * limit;
  const percent = (share) => `${Math.round(100 * share)}%`;
  const bar = $("meter");
  bar.className = `meter ${over ? "over" : near ? "near" : ""}`;
  bar.firstElementChild.style.width = `${Math.min(100, 100 * amount.ratio / limit)}%`;
  bar.setAttribute("aria-valuenow", String(Math.round(100 * amount.ratio)));
  bar.setAttribute("aria-valuetext", `${percent(amount.ratio)} of the words changed, ${percent(limit)} allowed`);
  const parts = [`${amount.atMost ? "at most " : ""}${amount.changed} of ${amount.of} words changed · ${percent(amount.ratio)} (limit ${percent(limit)})`];
  if (over) parts.push("Too much: take some of it back.");
  else if (near) parts.push("Close to the limit.");
  else if (!amount.changed && spacing) parts.push("Only white space, which the labels do not see.");
  if (coarse) parts.push("Shown coarsely: the change is large.");
  $("meter-text").textContent = parts.join(" ");
  $("meter-text").className = over ? "over" : near ? "near" : "";
  button("submit").setAttribute("aria-disabled", String(over));
  button("undo").setAttribute("aria-disabled", String(!past.length));
  button("redo").setAttribute("aria-disabled", String(!future.length));
  button("reset").setAttribute("aria-disabled", String(editor.value === data.original));
  if (!CSS.supports("field-sizing", "content")) {
    editor.style.height = "auto";
    editor.style.height = `${editor.scrollHeight + 2}px`;
  }
}

// ---- verdicts

function forget() {
  try {
    localStorage.removeItem(KEY);
  } catch {
    draft.local = false;
  }
}

function send(verdict) {
  clearTimeout(draft.timer);
  finish("/api/submit", { work: data.work, verdict, text: verdict === "edited" ? editor.value : null, note: note.value, seconds: clock.seconds }, forget);
}

let asked = "";

// A verdict that throws typed changes away is asked for twice.
function sure(act, question, go) {
  if (editor.value === (data.start ?? data.original) || editor.value === data.original || asked === act) { go(); return; }
  asked = act;
  banner(question, "warn");
}

const acts = {
  submit() {
    show();
    if (amount.ratio > data.maxRatio && !amount.atMost) {
      banner(`The edit changes ${Math.round(100 * amount.ratio)}% of the words; at most ${Math.round(100 * data.maxRatio)}% may change. Take some of it back.`, "error");
    } else if (editor.value === data.original) {
      banner("Nothing is changed. If the response needs no change, choose “Already fine”.", "warn");
    } else {
      send("edited");
    }
  },
  fine: () => sure("fine", "Your changes would be dropped. Press “Already fine” again if that is meant.", () => send("fine")),
  unfixable: () => sure("unfixable", "Your changes would be dropped. Press “Cannot be fixed” again if that is meant.", () => send("unfixable")),
  skip() {
    if (data.state === "done") { location.assign("/"); return; }
    clearTimeout(draft.timer);
    finish("/api/skip", { work: data.work, note: note.value }, forget);
  },
  note: toggleNote,
  chosen() {
    const panel = $("chosen");
    if (!panel) return;
    panel.hidden = !panel.hidden;
    button("chosen").setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) panel.scrollIntoView({ block: "nearest" });
  },
  undo: () => step(past, future),
  redo: () => step(future, past),
  reset: () => replace(data.original),
  todraft: () => replace(data.start),
  mono() {
    const on = editor.classList.toggle("mono");
    $("redline").classList.toggle("mono", on);
    button("mono").setAttribute("aria-pressed", String(on));
  },
  plain,
  write: () => editor.focus(),
  guidelines: () => dialog("guidelines"),
  keys: () => dialog("keys"),
};

wire(acts, {
  f: "fine", x: "unfixable", s: "skip", n: "note", c: "chosen", g: "guidelines", r: "reset", d: "todraft", p: "plain", m: "mono",
  e: "write", h: "keys", u: "undo",
}, (event, typing) => {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key === "Enter") acts.submit();
  else if (command && !event.altKey && event.key.toLowerCase() === "z" && event.target !== note) step(...(event.shiftKey ? [future, past] : [past, future]));
  else if (command && !event.altKey && event.key.toLowerCase() === "y" && event.target !== note) step(future, past);
  else return false;
  return true;
});
note.addEventListener("input", remember);

// ---- start

const mine = remembered();
const server = { text: data.edited ?? data.draft ?? data.start, note: OUR_NOTE, at: data.draftAt };
const since = mine?.since ?? [];
const unsaved = mine !== null && mine.at !== server.at && !since.includes(mine.at); // the server was not heard to have it
const first = unsaved && since.includes(server.at) ? mine : server;
editor.value = first.text;
note.value = first.note || (unsaved ? mine.note : "");
clock.seconds = mine?.seconds ?? 0;
draft.at = first.at;
if (first === mine) {
  draft.since = [...since, mine.at]; // it may be on its way since before a reload
  draft.dirty = true;
  $("saved").textContent = "Restored";
  later(300);
} else if (unsaved && mine.text !== server.text) {
  past.push({ text: mine.text, from: 0, to: 0 });
  banner("This text was changed in another window or on another device, and is shown as it was left there. Undo (Ctrl+Z) brings back what was typed here.", "warn");
} else if (data.draft !== null && data.draft !== undefined) {
  $("saved").textContent = "Restored";
}
if (note.value) toggleNote();
if (/^(```|~~~| {4}\S|\t)/m.test(data.original)) acts.mono();
shown = snapshot();
show();
if (matchMedia("(hover: hover)").matches) {
  editor.focus({ preventScroll: true });
  editor.setSelectionRange(0, 0);
}
