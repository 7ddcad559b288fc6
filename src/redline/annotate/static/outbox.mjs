// What was submitted and not yet acknowledged. It is kept in this browser, and each page of the same person sends it as soon as the
// server answers, also after the tab was closed. The server knows a submission by its token and takes it once.
import { $, Answer, data, post } from "./page.mjs";

const KEY = `redline out ${data.uid} ${data.who}`, DONE = `redline done ${data.uid} ${data.who}`;
const NAMES = {
  edited: "an edit", fine: "already fine", unfixable: "cannot be fixed", a: "one preferred", b: "one preferred", tie: "a tie",
  up: "thumb up", down: "thumb down", skipped: "skipped",
};
const SECONDS = 12; // that a verdict can be undone from the next page

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEY)) ?? [];
  } catch {
    return []; // switched off, or not ours
  }
}

function write(entries) {
  try {
    if (entries.length) localStorage.setItem(KEY, JSON.stringify(entries));
    else localStorage.removeItem(KEY);
    return true;
  } catch {
    return false;
  }
}

const without = (token) => read().filter((entry) => entry.token !== token);

const own = new Set(); // the tokens that this page itself is sending (verdict.mjs)

/** Keep an entry {token, path, body}, which this page sends; false when this browser does not keep it. */
export function add(entry) {
  own.add(entry.token);
  return write([...without(entry.token), entry]);
}

export function remove(token) {
  own.delete(token);
  write(without(token));
}

/** Tell the next page what was done, so that it offers to undo it. */
export function announce(work, revision, verdict, late = false) {
  try {
    sessionStorage.setItem(DONE, JSON.stringify({ work, revision, verdict, late, at: Date.now() }));
  } catch {
    return; // then it can be undone from the page of one's last work
  }
}

export function toast(text, actions = [], seconds = SECONDS) {
  const box = document.createElement("div");
  box.className = "toast";
  const words = document.createElement("span");
  words.textContent = text;
  box.append(words);
  for (const [name, act] of actions) {
    const element = document.createElement("button");
    element.type = "button";
    element.textContent = name;
    element.addEventListener("click", () => { box.remove(); act(); });
    box.append(element);
  }
  $("toasts").append(box);
  if (seconds) setTimeout(() => box.remove(), seconds * 1000);
  return box;
}

let undoable = null;

export async function undo(work, revision) {
  try {
    const { next } = await post("/api/undo", { work, revision });
    location.assign(next);
  } catch (error) {
    if (!(error instanceof Answer)) throw error;
    toast(`Not undone: ${error.message}`);
  }
}

/** Undo what the last page did, while that is offered. */
export function undoLast() {
  if (undoable) undo(undoable.work, undoable.revision);
}

function offerUndo() {
  let done = null;
  try {
    done = JSON.parse(sessionStorage.getItem(DONE));
    sessionStorage.removeItem(DONE);
  } catch {
    return;
  }
  if (!done || Date.now() - done.at > SECONDS * 1000 || data.work === done.work) return;
  undoable = done;
  const what = done.verdict === "skipped" ? "Skipped." : `Submitted as ${NAMES[done.verdict]}.`;
  toast(done.late ? `What you did without a connection is sent now. ${what}` : what, [["Undo", undoLast]]);
  setTimeout(() => { undoable = null; }, SECONDS * 1000);
}

function forgetDraft(work) {
  try {
    localStorage.removeItem(`redline ${data.uid} ${work}`);
  } catch {
    return; // then there is none
  }
}

/** Send all that earlier pages left. Where this page's own item is done by that, go on. */
async function sendAll() {
  showRefused();
  let goOn = null;
  for (const entry of read()) {
    if (entry.refused || own.has(entry.token)) continue;
    const { work } = entry.body, verdict = entry.body.verdict ?? "skipped";
    try {
      const { next, revision } = await post(entry.path, entry.body);
      remove(entry.token);
      forgetDraft(work);
      const deciding = entry.path.startsWith("/admin/"); // then `work` is an item's number
      const here = work === data.work && deciding === (data.state === "deciding");
      if (here) goOn = next;
      if (here && !deciding) announce(work, revision, verdict, true);
      else toast(`What you did without a connection is sent now: ${NAMES[verdict]}.`);
    } catch (error) {
      if (!(error instanceof Answer)) throw error;
      if (!error.status) { setTimeout(trySending, 5000); break; }
      write([...without(entry.token), { ...entry, refused: error.message }]);
      showRefused();
    }
  }
  if (goOn) location.replace(goOn);
}

let trying = null;

/** One try at a time: at the start, when the connection comes back, and some seconds after a try without an answer. */
function trySending() {
  trying ??= sendAll().finally(() => { trying = null; });
}

function showRefused() {
  for (const entry of read().filter((each) => each.refused)) {
    if (document.querySelector(`[data-token="${entry.token}"]`)) continue;
    const box = toast(`Not taken, and kept here: ${entry.refused}`, [
      ["Copy the text", () => { navigator.clipboard?.writeText(entry.body.text ?? ""); showRefused(); }],
      ["Throw away", () => remove(entry.token)],
    ], 0);
    box.dataset.token = entry.token;
    if (entry.body.text) {
      const text = document.createElement("textarea");
      text.readOnly = true;
      text.value = entry.body.text;
      text.setAttribute("aria-label", "The text that was not taken");
      text.dir = "auto";
      box.append(text);
    }
  }
}

for (const element of document.querySelectorAll("[data-undo]")) {
  element.addEventListener("click", () => undo(Number(element.dataset.undo), Number(element.dataset.revision)));
}
offerUndo();
trySending();
addEventListener("online", trySending);
