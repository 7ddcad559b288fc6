// The units of a text, by the rule of redline.data.units: its expression and BudouX's Thai model come from there.
import { EXTEND, PATTERN, THAI } from "/unit-rules.mjs";

const UNIT = new RegExp(PATTERN, "gu");
const NEVER_BEFORE = new RegExp(`[${EXTEND}\\u0e30\\u0e32\\u0e45]`, "uy");
const NEVER_BEHIND = "เแโใไ";
const MOST_LINES = 5000; // remembered

// Of each feature of BudouX: its name, and where its letters start and end, from the place between two chunks.
const FEATURES = [
  ["UW1", -3, -2], ["UW2", -2, -1], ["UW3", -1, 0], ["UW4", 0, 1], ["UW5", 1, 2], ["UW6", 2, 3],
  ["BW1", -2, 0], ["BW2", -1, 1], ["BW3", 0, 2],
  ["TW1", -3, 0], ["TW2", -2, 1], ["TW3", -1, 2], ["TW4", 0, 3],
].map(([name, start, end]) => [THAI[name] ?? {}, start, end]);
const BASE = -0.5 * Object.values(THAI).reduce((all, group) => all + Object.values(group).reduce((sum, weight) => sum + weight, 0), 0);

function mayCutThai(text, place) {
  NEVER_BEFORE.lastIndex = place;
  return !NEVER_BEHIND.includes(text[place - 1]) && !NEVER_BEFORE.test(text);
}

/** The words of the stretch [start, end) of Thai: BudouX's cuts, held to the rules of redline.data.units. */
function thaiWords(text, start, end, out) {
  const letters = Array.from(text.slice(start, end)); // code points, as Python counts them
  let wordStart = start, place = start;
  for (let at = 1; at <= letters.length; at++) {
    place += letters[at - 1].length;
    if (at < letters.length && !(cutScore(letters, at) > 0 && mayCutThai(text, place))) continue;
    out.push({ start: wordStart, end: place, text: text.slice(wordStart, place) });
    wordStart = place;
  }
}

function cutScore(letters, at) {
  let score = BASE;
  for (const [weights, from, to] of FEATURES) {
    if (at + from >= 0 && at + to <= letters.length) score += weights[letters.slice(at + from, at + to).join("")] ?? 0;
  }
  return score;
}

function unitsOfLine(line) {
  const out = [];
  for (const match of line.matchAll(UNIT)) {
    const start = match.index, end = start + match[0].length;
    if (match.groups.thai === undefined) out.push({ start, end, text: match[0] });
    else thaiWords(line, start, end, out);
  }
  return out;
}

const lines = new Map();

/** The units of a text: [{start, end, text}], places in UTF-16. No unit spans a line end, so lines are cut once and remembered. */
export function units(text) {
  if (lines.size > MOST_LINES) lines.clear();
  const out = [];
  let at = 0;
  for (const line of text.split("\n")) {
    let known = lines.get(line);
    if (!known) lines.set(line, known = unitsOfLine(line));
    for (const unit of known) out.push({ start: at + unit.start, end: at + unit.end, text: unit.text });
    at += line.length + 1;
  }
  return out;
}
