// What the edit page and the comparison share: talking to the server, buttons and keys, dialogs, the count of seconds at work.

export const data = JSON.parse(document.getElementById("data").textContent);
export const $ = (id) => document.getElementById(id);
export const button = (act) => document.querySelector(`[data-act="${act}"]`);

export class Answer extends Error {
  constructor(message, status) { super(message); this.status = status; }
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
  const value = await response.json().catch(() => ({}));
  if (response.ok) return value;
  throw new Answer(value.error ?? "The server cannot answer now.", response.status >= 500 ? 0 : response.status);
}

export function banner(text, kind = "") {
  const box = $("banner");
  box.hidden = !text;
  box.className = `banner ${kind}`;
  if (box.textContent !== text) box.textContent = text;
  if (text) box.scrollIntoView({ block: "nearest" });
}

let waiting = false;

/** Send a verdict until the server has it, through lost connections too; then go to the next item. */
export async function finish(path, body, forget) {
  if (waiting) return;
  waiting = true;
  document.body.classList.add("sending");
  for (let pause = 1; ; pause = Math.min(2 * pause, 15)) {
    try {
      await post(path, body);
      forget();
      location.assign("/");
      return;
    } catch (error) {
      if (!(error instanceof Answer)) throw error;
      if (error.status === 0) {
        banner(`${error.message} Your work is kept on this device and is sent as soon as the server answers.`, "warn");
        await new Promise((resume) => {
          setTimeout(resume, pause * 1000);
          addEventListener("online", resume, { once: true });
        });
        continue;
      }
      banner(error.message, "error");
      waiting = false;
      document.body.classList.remove("sending");
      return;
    }
  }
}

export const sending = () => waiting;

// Seconds at work: the page is seen, and there was a sign of life within the last minute.
export const clock = { seconds: 0, last: Date.now() };
for (const sign of ["keydown", "pointerdown", "pointermove", "scroll", "input"]) {
  addEventListener(sign, () => { clock.last = Date.now(); }, { capture: true, passive: true });
}
setInterval(() => {
  if (document.visibilityState === "visible" && Date.now() - clock.last < 60000) clock.seconds += 1;
}, 1000);

export function plain(button) {
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  for (const article of document.querySelectorAll(".rendered + .source")) {
    article.hidden = !on;
    article.previousElementSibling.hidden = on;
  }
}

export function dialog(id) {
  const box = $(id);
  if (box.open) box.close();
  else box.showModal();
}

export function toggleNote() {
  const box = $("note-box");
  box.hidden = !box.hidden;
  button("note").setAttribute("aria-expanded", String(!box.hidden));
  if (!box.hidden) $("note").focus();
}

/** Wire buttons (`data-act`) and keys to `acts`. `letters`: key -> act, with Alt everywhere, alone outside of text fields. */
export function wire(acts, letters, special = () => false) {
  for (const element of document.querySelectorAll("[data-act]")) {
    if (acts[element.dataset.act]) element.addEventListener("click", () => acts[element.dataset.act](element));
  }
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return;
    const typing = event.target.matches("textarea, input");
    if (!document.querySelector("dialog[open]") && special(event, typing)) { event.preventDefault(); return; }
    if (event.key === "Escape" && typing) { event.target.blur(); return; }
    if (event.ctrlKey || event.metaKey) return;
    if (event.key === "?" && !typing) { event.preventDefault(); acts.keys(); return; }
    const latin = /^[a-z]$/i.test(event.key);
    if (typing && !(event.altKey && latin)) return; // on a Mac, Option and a letter type a character
    const open = document.querySelector("dialog[open]");
    const letter = latin ? event.key.toLowerCase() : event.altKey ? event.code.replace(/^Key/, "").toLowerCase() : event.key;
    const act = letters[letter];
    if (!act || (open && open.id !== act)) return;
    if (event.repeat) return;
    event.preventDefault();
    acts[act](button(act));
  });
}
