// The blind comparison, and thumbs: one verdict, by mouse or key.
import { undo, undoLast } from "./outbox.mjs";
import { $, clock, data, dialog, guideFirst, lastTurn, plain, toggleNote, waitForRest, wire } from "./page.mjs";
import { finish } from "./verdict.mjs";

waitForRest();
guideFirst();
lastTurn();
const note = $("note");
note.value = data.note;
if (note.value) toggleNote();

const judge = (element) => {
  if (!element) return;
  const { verdict } = element.dataset;
  finish("/api/submit", { verdict, note: note.value, seconds: clock.seconds }, verdict);
};
wire({
  left: judge,
  tie: judge,
  right: judge,
  skip() {
    if (data.state === "done") location.assign("/");
    else finish("/api/skip", { note: note.value }, "skipped");
  },
  takeback: () => undo(data.work, data.revision),
  undolast: undoLast,
  note: toggleNote,
  plain,
  guidelines: () => dialog("guidelines"),
  keys: () => dialog("keys"),
}, { j: "left", k: "tie", l: "right", s: "skip", n: "note", g: "guidelines", p: "plain", h: "keys", u: "undolast" });
