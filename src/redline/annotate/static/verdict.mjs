// Sending a verdict from the page of an item, until the server has it; then on to the next one.
import * as outbox from "./outbox.mjs";
import { $, Answer, banner, data, post } from "./page.mjs";

let waiting = false, keptHere = true;

export const sending = () => waiting;

/** A name that no other submission has. */
function newToken() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Send `body` to `path` until there is an answer; then forget the draft and go on. `verdict`: what it is called when it can be undone.
 * `refused(error)`: what else to do when it is not taken.
 */
export async function finish(path, body, verdict, forget = () => {}, refused = () => {}) {
  if (waiting) return;
  waiting = true;
  document.body.classList.add("sending");
  const entry = { token: newToken(), path, body: { ...body, work: data.work, revision: data.revision } };
  entry.body.token = entry.token;
  keptHere = outbox.add(entry);
  for (let pause = 1; ; pause = Math.min(2 * pause, 15)) {
    try {
      const { next, revision } = await post(path, entry.body);
      outbox.remove(entry.token);
      forget();
      if (data.state !== "deciding") outbox.announce(data.work, revision, verdict);
      waiting = false;
      location.assign(next);
      return;
    } catch (error) {
      if (!(error instanceof Answer)) throw error;
      if (error.status === 0) {
        const where = keptHere
          ? "Not sent yet. It is kept in this browser and is sent as soon as the server answers, also when you close this page and open it again."
          : "Not sent yet, and this browser cannot keep it: leave this page open.";
        banner(`${error.message} ${where}`, "warn");
        await new Promise((resume) => {
          setTimeout(resume, pause * 1000);
          addEventListener("online", resume, { once: true });
        });
        continue;
      }
      outbox.remove(entry.token);
      waiting = false;
      document.body.classList.remove("sending");
      if (error.current) stale(error, () => finish(path, body, verdict, forget, refused));
      else banner(error.message, "error");
      refused(error);
      return;
    }
  }
}

// Another page was quicker. Nothing was replaced: the person sees what stands, keeps the own text, and decides.
function stale(error, again) {
  const { state, verdict, submitted, revision } = error.current;
  const when = submitted ? new Date(submitted * 1000).toLocaleString() : "";
  const names = { edited: "an edit", fine: "already fine", unfixable: "cannot be fixed" };
  const stands = state === "done" ? `It stands as submitted ${when}: ${names[verdict] ?? verdict}.` : `It stands as: ${state}.`;
  banner(`${error.message} ${stands} Your text is kept here.`, "error", [
    ["Look at what stands", () => location.assign(`/work/${data.work}`)],
    ["Submit mine instead", () => { data.revision = revision; data.state = state; banner(""); again(); }],
  ]);
  $("banner").dataset.stale = "1";
}

addEventListener("beforeunload", (event) => {
  if (waiting && !keptHere) event.preventDefault(); // the browser asks before the page goes
});
