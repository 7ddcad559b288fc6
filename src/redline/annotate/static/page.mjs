// What the pages share: talking to the server, buttons and keys, dialogs, the count of seconds at work.

export const data = JSON.parse(document.getElementById("data").textContent);
export const $ = (id) => document.getElementById(id);
export const button = (act) => document.querySelector(`[data-act="${act}"]`);

export class Answer extends Error {
  constructor(message, status, current) { super(message); this.status = status; this.current = current; }
}

/** POST JSON. Throws Answer with the server's reason, or with status 0 when there was no (useful) answer. */
export async function post(path, body) {
  let response;
  try {
    response = await fetch(path, {
      method: "POST", headers: { "Content-Type": "application/json", "X-CSRF-Token": data.csrf }, body: JSON.stringify(body),
      signal: AbortSignal.timeout(20000),
    });
  } catch {
    throw new Answer("No connection.", 0);
  }
  const value = await response.json().catch(() => null);
  if (response.ok && value) return value;
  const status = response.status >= 500 || !value ? 0 : response.status;
  throw new Answer(value?.error ?? "The server cannot answer now.", status, value?.current);
}

/** A message at the head of the page; `actions`: [[text, function]] become buttons. */
export function banner(text, kind = "", actions = []) {
  const box = $("banner");
  if (!text && box.hidden) return;
  box.hidden = !text;
  box.className = `banner ${kind}`;
  const words = document.createElement("p");
  words.textContent = text;
  box.replaceChildren(words);
  for (const [name, act] of actions) {
    const element = document.createElement("button");
    element.type = "button";
    element.textContent = name;
    element.addEventListener("click", act);
    box.append(element);
  }
  if (text) box.scrollIntoView({ block: "nearest" });
}

// Seconds at work: the page is seen, and there was a sign of life within the last minute.
export const clock = { seconds: 0, last: Date.now() };
for (const sign of ["keydown", "pointerdown", "pointermove", "scroll", "input"]) {
  addEventListener(sign, () => { clock.last = Date.now(); }, { capture: true, passive: true });
}
setInterval(() => {
  if (document.visibilityState === "visible" && Date.now() - clock.last < 60000) clock.seconds += 1;
}, 1000);

// ---- What was meant for the item before must not reach this one: for a moment after the page has come, and until the keys rest, what
// is typed or pressed is dropped.

const MOMENT = 600, REST = 400, LONGEST = 5000;
const came = performance.now();
let lastDropped = -Infinity;
const early = () => {
  const now = performance.now();
  return now - came < LONGEST && (now - came < MOMENT || now - lastDropped < REST);
};

function drop(event) {
  if (!early()) return;
  if (event.type === "keydown") {
    if (["Tab", "Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    lastDropped = performance.now();
  } else if (event.type === "click" && !event.target.closest?.("[data-act]")) return;
  event.preventDefault();
  event.stopImmediatePropagation();
}

function settle() {
  if (early()) setTimeout(settle, 50);
  else document.body.classList.add("settled");
}

/** Drop input for a moment; once on a page with something to work on. */
export function waitForRest() {
  for (const type of ["keydown", "beforeinput", "paste", "drop", "click"]) addEventListener(type, drop, { capture: true });
  settle();
}

export function plain(element) {
  const on = element.getAttribute("aria-pressed") !== "true";
  element.setAttribute("aria-pressed", String(on));
  for (const article of document.querySelectorAll(".rendered + .source")) {
    article.hidden = !on;
    article.previousElementSibling.hidden = on;
  }
}

function open(box) {
  box.showModal();
  box.scrollTop = 0; // the button that has the focus is at the end of what may be long
}

export function dialog(id) {
  const box = $(id);
  if (box.open) box.close();
  else open(box);
}

/** The guidelines open by themselves until they were closed once. */
export function guideFirst() {
  if (data.guided) return;
  const box = $("guidelines");
  open(box);
  box.addEventListener("close", () => post("/api/guided", {}).catch(() => {}), { once: true }); // asked again next time
}

/** A conversation opens at its last turn. */
export function lastTurn() {
  const box = $("prompt-text"), last = box?.querySelector(".last-turn");
  if (last) box.scrollTop = last.offsetTop - box.offsetTop;
}

export function toggleNote() {
  const box = $("note-box");
  box.hidden = !box.hidden;
  button("note").setAttribute("aria-expanded", String(!box.hidden));
  if (!box.hidden) $("note").focus();
}

/**
 * Wire buttons (`data-act`) and keys to `acts`. `letters`: key -> act, with Alt. No bare key is a command: whoever types with the focus
 * elsewhere types for nothing, and does not submit.
 */
export function wire(acts, letters, special = () => false) {
  for (const element of document.querySelectorAll("[data-act]")) {
    const act = acts[element.dataset.act];
    if (act) element.addEventListener("click", () => act(element));
  }
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229 || event.defaultPrevented || event.repeat && event.altKey) return;
    const open = document.querySelector("dialog[open]");
    if (!open && special(event)) { event.preventDefault(); return; }
    const typing = event.target.matches("textarea, input, [contenteditable=true]");
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (!event.altKey || event.ctrlKey || event.metaKey) return;
    const latin = /^[a-z]$/i.test(event.key);
    if (typing && !latin) return; // on a Mac, Option and a letter type a character
    const letter = latin ? event.key.toLowerCase() : event.code.replace(/^Key/, "").toLowerCase();
    const act = letters[letter];
    if (!act || (open && open.id !== act)) return;
    event.preventDefault();
    acts[act](button(act));
  });
}
