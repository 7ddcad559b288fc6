// Draws a redline: deletions struck through, insertions underlined, all else as the edited text has it. Text nodes only, never HTML.
// Each paragraph is a block of its own with the direction of its own first strong letter.
import { compare, sameLetters } from "./diff.mjs";

// Invisible characters that can turn or hide text are drawn by their number. Joiners stay: scripts and emoji need them; so do the tags
// that spell a region's flag.
export const HIDDEN = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u115f\u3164]|(?<!\u{1f3f4}[\u{e0020}-\u{e007e}]*)[\u{e0000}-\u{e007f}]/gu;
const RIGHT_TO_LEFT = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\u{10800}-\u{10fff}\u{1e800}-\u{1efff}]/u;
const LETTER = /\p{L}/u;

/** The direction of a paragraph: that of its first letter. */
export function direction(text) {
  const first = LETTER.exec(text);
  return first && RIGHT_TO_LEFT.test(first[0]) ? "rtl" : "ltr";
}

/** How a hidden character is drawn. */
export const named = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Add text to an element; hidden characters by their number. */
export function put(parent, text) {
  let done = 0;
  for (const match of text.matchAll(HIDDEN)) {
    parent.append(text.slice(done, match.index));
    const mark = document.createElement("span");
    mark.className = "hidden-mark";
    mark.textContent = named(match[0]);
    parent.append(mark);
    done = match.index + match[0].length;
  }
  parent.append(text.slice(done));
}

/** White space as signs. */
export const signs = (text) => text.replaceAll("\n", "↵").replaceAll("\t", "⇥").replaceAll(/[^↵⇥]/g, "␣");

class Paragraphs {
  constructor() {
    this.out = document.createDocumentFragment();
    this.open();
  }

  open() {
    this.block = document.createElement("div");
    this.text = "";
    this.struck = "";
    this.out.append(this.block);
  }

  close() {
    this.block.dir = direction(LETTER.test(this.text) ? this.text : this.struck);
    if (!this.block.childNodes.length) this.block.append(document.createElement("br"));
  }

  /** Text of the edited side; a line feed begins a paragraph. `tag`: ins, or none. */
  add(text, tag = "") {
    text.split("\n").forEach((line, number) => {
      if (number) { this.close(); this.open(); }
      if (!line) return;
      this.text += line;
      if (tag) this.piece(tag, line);
      else put(this.block, line);
    });
  }

  piece(tag, text, className = "", title = "") {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (title) element.title = title;
    put(element, text);
    this.block.append(element);
  }

  strike(text) {
    this.struck += text;
    this.piece("del", text);
  }

  // White space is nothing that the labels see; where it changed between two kept units, a faint mark says so.
  gap(before, after) {
    if (before !== after) {
      if (before.length > after.length && before.endsWith(after)) {
        this.piece("del", signs(before.slice(0, before.length - after.length)), "space");
      } else if (after.length > before.length && after.startsWith(before)) {
        this.piece("ins", signs(after.slice(before.length)), "space");
      } else {
        if (before) this.piece("del", signs(before), "space");
        if (after) this.piece("ins", signs(after), "space");
      }
    }
    this.add(after);
  }
}

/** Draw the redline of `before` and `after` into `element`. `found`: what diff.compare says of them. */
export function draw(element, before, after, found = compare(before, after)) {
  const { a, b, cuts } = found;
  const out = new Paragraphs();
  const gapA = (i) => before.slice(i ? a[i - 1].end : 0, i < a.length ? a[i].start : before.length);
  const gapB = (j) => after.slice(j ? b[j - 1].end : 0, j < b.length ? b[j].start : after.length);
  let i = 0, j = 0, changedBefore = false;
  const keep = (until) => {
    for (; i < until; i++, j++) {
      if (changedBefore) out.add(gapB(j));
      else out.gap(gapA(i), gapB(j));
      out.add(b[j].text);
      changedBefore = false;
    }
  };
  cuts.forEach(([i0, i1, j0, j1], number) => {
    keep(i0);
    const change = found.changes[number];
    if (i1 > i0) {
      out.add(gapA(i0).replaceAll("\n", j1 > j0 || i1 === a.length ? "\n" : " "));
      out.strike(change.deleted);
    }
    if (j1 > j0) {
      const lead = gapB(j0);
      const breaks = lead.includes("\n") && !gapA(i0).includes("\n");
      out.add(i1 > i0 && !breaks ? "" : lead);
      out.add(change.inserted, "ins");
    }
    if (sameLetters(change.deleted, change.inserted)) out.piece("span", "same letters", "same-letters");
    i = i1;
    j = j1;
    changedBefore = true;
  });
  keep(a.length);
  if (changedBefore) out.add(gapB(b.length));
  else out.gap(gapA(a.length), gapB(b.length));
  out.close();
  element.replaceChildren(out.out);
}

/** Show a text as paragraphs, each with its own direction. */
export function paragraphs(element, text) {
  const out = new Paragraphs();
  out.add(text);
  out.close();
  element.replaceChildren(out.out);
}
