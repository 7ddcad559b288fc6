// The difference of two texts as the labels see it: the units and the tie rule of redline.data.alignment (which says why).
// Fewest single-token edits; then the least of 7 * runs + tokens that are not kept; then the change lies latest.
import { units } from "./units.mjs";

export { units };

const RUN = 7; // what a run costs, in tokens that are not kept
const MOST_CELLS = 4e6; // of the tables below, and
const MOST_EDITS = 3000; // what is larger is shown coarsely

function numbered(a, b) {
  const names = new Map();
  const number = (token) => {
    let name = names.get(token);
    if (name === undefined) names.set(token, name = names.size);
    return name;
  };
  return [Int32Array.from(a, number), Int32Array.from(b, number)];
}

/**
 * The Levenshtein distance of two lists of numbers, or `most` + 1 where it is larger. By diagonals (Ukkonen 1985): in time that grows
 * with the square of the distance, not with the product of the lengths.
 */
export function distance(a, b, most = Infinity) {
  const n = a.length, m = b.length, goal = m - n;
  const limit = Math.min(most, Math.max(n, m));
  let edits = 0;
  const width = 2 * limit + 3, middle = limit + 1;
  let before = new Int32Array(width).fill(-2), now = new Int32Array(width).fill(-2);
  for (; edits <= limit; edits++) {
    for (let k = Math.max(-edits, -n); k <= Math.min(edits, m); k++) {
      let i = edits ? Math.max(before[middle + k] + 1, before[middle + k - 1], before[middle + k + 1] + 1) : 0;
      i = Math.min(i, n, m - k);
      while (i >= 0 && i < n && i + k < m && a[i] === b[i + k]) i++;
      now[middle + k] = i;
    }
    if (Math.abs(goal) <= edits && now[middle + goal] >= n) return edits;
    [before, now] = [now, before];
  }
  return limit + 1;
}

/**
 * Changed runs [i0, i1, j0, j1] that turn the token list `a` into `b`: a[i0..i1) becomes b[j0..j1). `changed` on the result: single
 * tokens changed. Where the tables would be too large, one run from the first to the last difference, and `coarse` is set.
 */
export function align(before, after) {
  const [a, b] = numbered(before, after);
  const n = a.length, m = b.length;
  const most = Math.floor(MOST_CELLS / (n + 1));
  const edits = distance(a, b, Math.min(most, MOST_EDITS));
  if (edits > Math.min(most, MOST_EDITS)) return coarse(a, b);
  const cuts = edits ? tables(a, b, edits) : [];
  return Object.assign(cuts, { changed: edits });
}

function coarse(a, b) {
  const shorter = Math.min(a.length, b.length);
  let prefix = 0;
  while (prefix < shorter && a[prefix] === b[prefix]) prefix++;
  let suffix = 0;
  while (suffix < shorter - prefix && a[a.length - 1 - suffix] === b[b.length - 1 - suffix]) suffix++;
  const changed = Math.max(a.length, b.length) - prefix - suffix;
  return Object.assign([[prefix, a.length - suffix, prefix, b.length - suffix]], { coarse: true, changed });
}

// Least cost of a[:i] -> b[:j], `kept` with the last token kept, `run` with it changed. A cost is one number: an edit outweighs all runs
// and tokens not kept together. A row holds the diagonals j - i that a path of `edits` edits can pass.
function tables(a, b, edits) {
  const n = a.length, m = b.length;
  const low = -Math.floor((edits - m + n) / 2), high = Math.floor((edits + m - n) / 2);
  const width = high - low + 1, start = RUN, edit = (RUN + 1) * (n + m + 1);
  const kept = new Float64Array((n + 1) * width).fill(Infinity), run = new Float64Array((n + 1) * width).fill(Infinity);
  kept[-low] = 0;
  for (let i = 0; i <= n; i++) {
    for (let j = Math.max(0, i + low), last = Math.min(m, i + high); j <= last; j++) {
      const at = i * width + j - i - low;
      let best = run[at];
      if (i && j - i < high) best = Math.min(best, run[at - width + 1] + edit + 1, kept[at - width + 1] + start + edit + 1);
      if (j && j - i > low) best = Math.min(best, run[at - 1] + edit + 1, kept[at - 1] + start + edit + 1);
      if (i && j) {
        best = Math.min(best, run[at - width] + edit + 2, kept[at - width] + start + edit + 2);
        if (a[i - 1] === b[j - 1]) kept[at] = Math.min(kept[at - width], run[at - width]);
      }
      run[at] = best;
    }
  }
  return trace(kept, run, n, m, low, high, edit);
}

// Read from the end; where two ways cost the same, the change lies later.
function trace(kept, run, n, m, low, high, edit) {
  const width = high - low + 1;
  const cell = (i, j) => i * width + j - i - low;
  const cuts = [];
  for (let i = n, j = m; i > 0 || j > 0;) {
    if (kept[cell(i, j)] < run[cell(i, j)]) { i--; j--; continue; }
    const [start, editedStart] = startOfRun(i, j);
    cuts.push([start, i, editedStart, j]);
    i = Math.max(start - 1, 0); // what lies before a run is kept
    j = Math.max(editedStart - 1, 0);
  }
  return cuts.reverse();

  // The latest place that explains the cost of the run that ends here.
  function startOfRun(end, editedEnd) {
    const cost = run[cell(end, editedEnd)];
    for (let start = end; start >= 0; start--) {
      for (let from = Math.min(editedEnd, start + high), first = Math.max(0, start + low); from >= first; from--) {
        const gap = end - start, editedGap = editedEnd - from;
        if (gap + editedGap && kept[cell(start, from)] + edit * Math.max(gap, editedGap) + RUN + gap + editedGap === cost) return [start, from];
      }
    }
    throw new Error("no start explains the cost of this run");
  }
}

/**
 * Everything that the page shows of a change: `cuts` of units; `changes`, one for each cut, with the texts `deleted` and `inserted`, and
 * what to do to take it back: put `restore` in the place [from, to) of `after`; the figures `changed`, `of`, `ratio` of the meter.
 */
export function compare(before, after) {
  const a = units(before), b = units(after);
  const cuts = align(a.map((unit) => unit.text), b.map((unit) => unit.text));
  const changes = cuts.map(([i0, i1, j0, j1], number) => {
    const oldFrom = i0 ? a[i0 - 1].end : 0, oldTo = i1 < a.length ? a[i1].start : before.length;
    const from = j0 ? b[j0 - 1].end : 0, to = j1 < b.length ? b[j1].start : after.length;
    const deleted = i1 > i0 ? before.slice(a[i0].start, a[i1 - 1].end) : "";
    const inserted = j1 > j0 ? after.slice(b[j0].start, b[j1 - 1].end) : "";
    const start = j1 > j0 ? b[j0].start : from, end = j1 > j0 ? b[j1 - 1].end : from;
    const lead = deleted && !inserted ? before.slice(oldFrom, a[i0].start) : ""; // white space that the text has no more
    return { number, deleted, inserted, lead, start, end, from, to, restore: before.slice(oldFrom, oldTo) };
  });
  const of = Math.max(a.length, b.length);
  return { a, b, cuts, changes, changed: cuts.changed, of, ratio: of ? cuts.changed / of : 0, coarse: Boolean(cuts.coarse) };
}

/** Where only white space changed between two kept units: [{from, to, old}], places in `after`. */
export function spaces(before, after, { a, b, cuts }) {
  const out = [];
  let i = 0, j = 0, changedBefore = false;
  const look = () => {
    const old = before.slice(i ? a[i - 1].end : 0, i < a.length ? a[i].start : before.length);
    const from = j ? b[j - 1].end : 0, to = j < b.length ? b[j].start : after.length;
    if (!changedBefore && old !== after.slice(from, to)) out.push({ from, to, old });
    changedBefore = false;
  };
  for (const [i0, i1, , j1] of cuts) {
    for (; i < i0; i++, j++) look();
    i = i1;
    j = j1;
    changedBefore = true;
  }
  for (; i < a.length; i++, j++) look();
  look();
  return out;
}

const SAME = new Intl.Collator("en", { sensitivity: "variant" });

/** Whether two texts look the same and differ in encoding alone, such as a composed and a decomposed accent. */
export function sameLetters(one, other) {
  return one !== other && one.normalize("NFKC") === other.normalize("NFKC") && SAME.compare(one, other) === 0;
}
