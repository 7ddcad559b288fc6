// The edit page: a field (the redline itself, or plain text), what is beside it, the meter, the verdicts.
import { Changes } from "./changes.mjs";
import { compare, spaces } from "./diff.mjs";
import { Draft } from "./draft.mjs";
import { PlainField } from "./field.mjs";
import { undo as undoSubmission, undoLast } from "./outbox.mjs";
import { $, Answer, banner, button, clock, data, dialog, guideFirst, lastTurn, plain, post, toggleNote, waitForRest, wire } from "./page.mjs";
import { draw, paragraphs } from "./redline.mjs";
import { RedlineField } from "./redline-field.mjs";
import { finish, sending } from "./verdict.mjs";

const note = $("note"), VIEW = "redline view";
let field, found, asked = "", drawn = 0, took = 0;

waitForRest();

const changes = new Changes({ reasons: data.reasons, given: data.given, takeBack, jump, changed: () => draft.changed() });
const draft = new Draft(() => ({ text: field.text, note: note.value, reasons: changes.stored }));

// ---- what is shown of a change

function changed() {
  if (sending()) return;
  asked = "";
  if (!draft.lost && !$("banner").dataset.stale) banner("");
  draft.changed();
  clearTimeout(drawn);
  if (took > 40) drawn = setTimeout(show, 250); // a very large change: not with each key
  else show();
}

/** Compare now, and draw everything. */
function show() {
  clearTimeout(drawn);
  const start = performance.now(), text = field.text;
  found = compare(data.original, text);
  field.marks(found, data.original);
  changes.update(found.changes, field.cursor);
  if (beside === "redline") draw($("redline"), data.original, text, found);
  meter(text);
  took = performance.now() - start;
  if (beside === "preview") previewLater();
}

const percent = (share) => `${Math.round(100 * share)}%`;

function meter(text) {
  const limit = data.maxRatio, over = found.ratio > limit && !found.coarse, near = !over && found.ratio > 0.8 * limit;
  const bar = $("meter");
  bar.className = `meter ${over ? "over" : near ? "near" : ""}`;
  bar.firstElementChild.style.width = `${Math.min(100, 100 * found.ratio / limit)}%`;
  bar.setAttribute("aria-valuenow", String(Math.round(100 * found.ratio)));
  bar.setAttribute("aria-valuetext", `${percent(found.ratio)} of the words changed, ${percent(limit)} allowed`);
  const parts = [`${found.coarse ? "at most " : ""}${found.changed} of ${found.of} words changed · ${percent(found.ratio)} (limit ${percent(limit)})`];
  if (over) parts.push("Too much: take some of it back.");
  else if (near) parts.push("Close to the limit.");
  else if (!found.changed && text !== data.original) {
    parts.push(spaces(data.original, text, found).length ? "Only white space, which the labels do not see." : "Nothing that the labels see.");
  }
  if (found.coarse) parts.push("Shown coarsely: the change is large.");
  $("meter-text").textContent = parts.join(" ");
  $("meter-text").className = over ? "over" : near ? "near" : "";
  button("submit").setAttribute("aria-disabled", String(over));
  button("undo").setAttribute("aria-disabled", String(!field.canUndo));
  button("redo").setAttribute("aria-disabled", String(!field.canRedo));
  button("reset").setAttribute("aria-disabled", String(text === data.original));
}

/** The changes of the text as it is now, also where drawing waits. */
function now() {
  show();
  return found.changes;
}

function takeBack(number) {
  const change = now()[number];
  if (change) field.splice(change.from, change.to, change.restore);
}

function jump(number) {
  const change = now()[number];
  if (change) field.select(change.start, change.end);
}

// ---- beside the editor: the original, the redline, a preview, the chosen response

let beside = "original", previewed = null, previewing = 0;
const SIDES = { original: "Original", redline: "Redline", preview: "Preview", chosen: "Chosen response" };

function showBeside(side) {
  beside = side;
  for (const [name, label] of Object.entries(SIDES)) {
    if (!button(name)) continue;
    const on = name === side;
    $(name).hidden = !on;
    button(name).setAttribute("aria-pressed", String(on));
    if (on) $("beside").setAttribute("aria-label", label);
  }
  if (side === "redline") draw($("redline"), data.original, field.text);
  if (side === "preview") preview();
}

const toggleBeside = (side) => showBeside(beside === side ? "original" : side);

function previewLater() {
  clearTimeout(previewing);
  previewing = setTimeout(preview, 400);
}

// The server renders it, as it renders prompts: no HTML of the text's own, no pictures, no links but http, https and mailto.
async function preview() {
  const { text } = field;
  if (text === previewed) return;
  try {
    const { html } = await post("/api/preview", { text });
    $("preview").innerHTML = html;
    previewed = text;
  } catch (error) {
    if (!(error instanceof Answer)) throw error;
    $("preview").textContent = error.message;
  }
}

let follows = null; // the pane that is scrolled by the other one, not by a person

function scrollTogether(leader, follower) {
  if (follows === leader) { follows = null; return; }
  const room = leader.scrollHeight - leader.clientHeight, theirs = follower.scrollHeight - follower.clientHeight;
  if (room <= 0 || theirs <= 0) return;
  const top = Math.round(leader.scrollTop / room * theirs);
  if (Math.abs(top - follower.scrollTop) < 1) return;
  follows = follower;
  follower.scrollTop = top;
}

// ---- the field

function makeField(kind, text) {
  field?.destroy();
  field = kind === "plain"
    ? new PlainField($("field"), text, changed)
    : new RedlineField($("field"), text, changed, () => changes.at(field.cursor), takeBack);
  button("view").setAttribute("aria-pressed", String(kind === "plain"));
  document.body.classList.toggle("plain-field", kind === "plain");
  const { scroller } = field;
  scroller.addEventListener("scroll", () => scrollTogether(scroller, $("beside")), { passive: true });
  $("beside").onscroll = () => scrollTogether($("beside"), scroller);
  field.mono(button("mono").getAttribute("aria-pressed") === "true");
}

function view() {
  try {
    return localStorage.getItem(VIEW) === "plain" ? "plain" : "redline";
  } catch {
    return "redline";
  }
}

function switchView() {
  const kind = button("view").getAttribute("aria-pressed") === "true" ? "redline" : "plain";
  makeField(kind, field.text);
  showBeside(kind === "plain" ? "redline" : "original");
  show();
  field.focus();
  try {
    localStorage.setItem(VIEW, kind);
  } catch {
    return; // then the choice holds for this page
  }
}

// ---- verdicts

function send(verdict) {
  draft.stop();
  const edited = verdict === "edited";
  const body = { verdict, text: edited ? field.text : null, note: note.value, seconds: clock.seconds, reasons: edited ? changes.submitted : [] };
  finish(data.decide ?? "/api/submit", body, verdict, () => draft.forget(), () => draft.keep());
}

// A verdict that throws typed changes away is asked for twice.
function sure(act, question) {
  const { text } = field;
  if (text === (data.start ?? data.original) || text === data.original || asked === act) { send(act); return; }
  asked = act;
  banner(question, "warn");
}

const composing = () => field.composing;

const acts = {
  submit() {
    if (composing()) return; // half a letter is no edit
    show();
    if (found.ratio > data.maxRatio && !found.coarse) {
      banner(`The edit changes ${percent(found.ratio)} of the words; at most ${percent(data.maxRatio)} may change. Take some of it back.`, "error");
    } else if (field.text === data.original) {
      banner("Nothing is changed. If the response needs no change, choose “Already fine”.", "warn");
    } else {
      send("edited");
    }
  },
  fine() { if (!composing()) sure("fine", "Your changes would be dropped. Press “Already fine” again if that is meant."); },
  unfixable() { if (!composing()) sure("unfixable", "Your changes would be dropped. Press “Cannot be fixed” again if that is meant."); },
  skip() {
    if (data.state === "deciding") return;
    if (data.state === "done") { location.assign("/"); return; }
    draft.stop();
    finish("/api/skip", { note: note.value }, "skipped", () => draft.forget());
  },
  takeback: () => undoSubmission(data.work, data.revision),
  undolast: undoLast,
  note: toggleNote,
  original: () => showBeside("original"),
  redline: () => toggleBeside("redline"),
  preview: () => toggleBeside("preview"),
  chosen: () => { if ($("chosen")) toggleBeside("chosen"); },
  undo: () => field.undo(),
  redo: () => field.redo(),
  reset: () => field.replace(data.original),
  todraft: () => field.replace(data.start),
  back() {
    now();
    const change = changes.under(field.cursor);
    if (change) takeBack(change.number);
  },
  reason() {
    now();
    $("at-cursor").querySelector("select")?.focus();
  },
  mono() {
    const on = button("mono").getAttribute("aria-pressed") !== "true";
    button("mono").setAttribute("aria-pressed", String(on));
    field.mono(on);
    $("beside").classList.toggle("mono", on);
  },
  view: switchView,
  plain,
  write: () => field.focus(),
  guidelines: () => dialog("guidelines"),
  keys: () => dialog("keys"),
};

wire(acts, {
  f: "fine", x: "unfixable", s: "skip", n: "note", c: "chosen", g: "guidelines", r: "reset", d: "todraft", p: "plain", m: "mono",
  e: "write", h: "keys", u: "undolast", l: "redline", v: "preview", b: "back", j: "reason", t: "view",
}, (event) => {
  const command = event.ctrlKey || event.metaKey;
  const inField = event.target !== note && !event.target.closest("#field .cm-content");
  if (command && event.key === "Enter") acts.submit();
  else if (command && !event.altKey && inField && event.key.toLowerCase() === "z") field[event.shiftKey ? "redo" : "undo"]();
  else if (command && !event.altKey && inField && event.key.toLowerCase() === "y") field.redo();
  else return false;
  return true;
});
note.addEventListener("input", () => draft.changed());

// ---- start

const first = draft.first({ text: data.draft ?? data.edited ?? data.start, note: data.note, at: data.draftAt });
if (first.reasons) changes.stored = first.reasons;
note.value = first.note;
if (note.value) toggleNote();
const code = /^(```|~~~| {4}\S|\t)/m.test(data.original);
button("mono").setAttribute("aria-pressed", String(code));
$("beside").classList.toggle("mono", code);
paragraphs($("original"), data.original);
makeField(view(), first.text);
if (first.older !== null) {
  field.remember(first.older);
  banner("This text was changed in another window or on another device, and is shown as it was left there. Undo (Ctrl+Z) brings back what was typed here.", "warn");
}
showBeside(view() === "plain" ? "redline" : "original");
show();
lastTurn();
guideFirst();
if (matchMedia("(hover: hover)").matches && !document.querySelector("dialog[open]")) field.focus();
