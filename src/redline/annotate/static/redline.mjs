// Draws a redline: deletions struck through, insertions underlined, all else as the edited text has it. Text nodes only, never HTML.
import { align, units } from "./diff.mjs";

// Invisible characters that can turn or hide text are drawn by their number. Joiners stay: scripts and emoji need them.
const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u115f\u3164\u{e0000}-\u{e007f}]/gu;

function put(parent, text) {
  let done = 0;
  for (const match of text.matchAll(HIDDEN)) {
    parent.append(text.slice(done, match.index));
    const mark = document.createElement("span");
    mark.className = "hidden-mark";
    mark.textContent = "U+" + match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parent.append(mark);
    done = match.index + match[0].length;
  }
  parent.append(text.slice(done));
}

function piece(parent, tag, text, className = "") {
  const element = document.createElement(tag);
  element.className = className;
  put(element, text);
  parent.append(element);
}

// White space is nothing that the labels see; where it changed between two kept words, a faint mark says so.
function gap(parent, before, after) {
  if (before === after) { put(parent, after); return; }
  const shown = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(/[^↵⇥]/g, "␣");
  if (before.length > after.length && before.endsWith(after)) {
    piece(parent, "del", shown(before.slice(0, before.length - after.length)), "space");
  } else if (after.length > before.length && after.startsWith(before)) {
    piece(parent, "ins", shown(after.slice(before.length)), "space");
  } else {
    if (before) piece(parent, "del", shown(before), "space");
    if (after) piece(parent, "ins", shown(after), "space");
  }
  put(parent, after);
}

/** Draw the redline of `before` and `after` into `element`. Returns {runs, spacing, coarse}. */
export function draw(element, before, after) {
  const a = units(before), b = units(after);
  const cuts = align(a.map((unit) => unit.text), b.map((unit) => unit.text));
  const out = document.createDocumentFragment();
  const gapA = (i) => before.slice(i ? a[i - 1].end : 0, i < a.length ? a[i].start : before.length);
  const gapB = (j) => after.slice(j ? b[j - 1].end : 0, j < b.length ? b[j].start : after.length);
  let i = 0, j = 0, changedBefore = false;
  const spaces = { changed: false };
  const keep = (until) => {
    for (; i < until; i++, j++) {
      const old = gapA(i), now = gapB(j);
      if (changedBefore) put(out, now);
      else { spaces.changed ||= old !== now; gap(out, old, now); }
      put(out, b[j].text);
      changedBefore = false;
    }
  };
  for (const [i0, i1, j0, j1] of cuts) {
    keep(i0);
    if (i1 > i0) { put(out, gapA(i0)); piece(out, "del", before.slice(a[i0].start, a[i1 - 1].end)); }
    if (j1 > j0) {
      const lead = gapB(j0);
      put(out, i1 > i0 ? (lead.includes("\n") && !gapA(i0).includes("\n") ? lead : "") : lead);
      piece(out, "ins", after.slice(b[j0].start, b[j1 - 1].end));
    }
    i = i1;
    j = j1;
    changedBefore = true;
  }
  keep(a.length);
  const old = gapA(a.length), now = gapB(b.length);
  if (changedBefore) put(out, now);
  else { spaces.changed ||= old !== now; gap(out, old, now); }
  element.replaceChildren(out);
  return { runs: cuts.length, spacing: spaces.changed, coarse: Boolean(cuts.coarse) };
}
