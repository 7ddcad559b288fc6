// The blind comparison: one verdict, by mouse or key.
import { $, button, clock, data, dialog, finish, plain, toggleNote, wire } from "./page.mjs";

const note = $("note");
note.value = data.note;
if (note.value) toggleNote();

const judge = (element) => finish("/api/submit", { work: data.work, verdict: element.dataset.verdict, note: note.value, seconds: clock.seconds }, () => {});
const acts = {
  left: judge,
  tie: judge,
  right: judge,
  skip() {
    if (data.state === "done") location.assign("/");
    else finish("/api/skip", { work: data.work, note: note.value }, () => {});
  },
  note: toggleNote,
  plain,
  guidelines: () => dialog("guidelines"),
  keys: () => dialog("keys"),
};
const arrows = { ArrowLeft: "left", ArrowDown: "tie", ArrowRight: "right", 1: "left", 2: "tie", 3: "right" };

wire(acts, { s: "skip", n: "note", g: "guidelines", p: "plain", h: "keys" }, (event, typing) => {
  const act = arrows[event.key];
  if (!act || typing || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey || event.repeat) return false;
  judge(button(act));
  return true;
});
