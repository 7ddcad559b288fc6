// The difference of two texts as the labels see it: the same units and the same tie rule as redline.data.alignment (which says why).
// Fewest single-token edits; then the least RUN * changed runs + tokens not kept; then the change lies latest.

const SPACE = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Python's white space, not ours
const WORD = "\\p{L}\\p{N}_";
const UNITS = new RegExp(`[${WORD}]+(?:['’][${WORD}]+)*|[^${WORD}${SPACE}]`, "gu");
const UNSPACED = "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uf900-\\ufaff"; // scripts without spaces
const WORDS = new RegExp(`[${UNSPACED}]|[^${SPACE}${UNSPACED}]+`, "gu");
const RUN = 7; // what a run costs, in tokens not kept
const MOST_CELLS = 5e6; // of the tables below; what is larger is shown coarsely

/** Words and punctuation marks of a text: [{start, end, text}]. */
export function units(text) {
  return Array.from(text.matchAll(UNITS), (match) => ({ start: match.index, end: match.index + match[0].length, text: match[0] }));
}

/** The words that the edit ratio counts: what lies between white space, or each character where a script has none. */
export function words(text) {
  return text.match(WORDS) ?? [];
}

function numbered(a, b) {
  const names = new Map();
  const number = (token) => names.get(token) ?? (names.set(token, names.size), names.size - 1);
  return [a.map(number), b.map(number)];
}

function commonEnds(a, b) {
  const shorter = Math.min(a.length, b.length);
  let prefix = 0;
  while (prefix < shorter && a[prefix] === b[prefix]) prefix++;
  let suffix = 0;
  while (suffix < shorter - prefix && a[a.length - 1 - suffix] === b[b.length - 1 - suffix]) suffix++;
  return [prefix, suffix];
}

/**
 * Changed runs [i0, i1, j0, j1] that turn the token list `a` into `b`: a[i0..i1) becomes b[j0..j1).
 * Where the tables would be too large, one run from the first to the last difference, and `coarse` is set on the result.
 */
export function align(a, b) {
  [a, b] = numbered(a, b);
  const [prefix, suffix] = commonEnds(a, b);
  if (prefix === a.length && prefix === b.length) return [];
  const longer = Math.max(a.length, b.length);
  const bits = Math.ceil(Math.log2(a.length + b.length + 2));
  // Only paths of at most `band` edits are looked at; a shortest one is among them when it turns out to have no more.
  for (let band = Math.abs(a.length - b.length) + 8; bits <= 17; band = Math.min(2 * band, longer)) {
    if ((a.length + 1) * (2 * band + 1) > MOST_CELLS) break;
    const cuts = tables(a, b, band, 2 ** (bits + 4));
    if (cuts) return cuts;
  }
  return Object.assign([[prefix, a.length - suffix, prefix, b.length - suffix]], { coarse: true });
}

// Least cost of a[:i] -> b[:j], `kept` with the last token kept, `run` with it changed. A cost is one number: `edit` for each edit, which
// outweighs all others, RUN for each run, 1 for each token not kept. A row holds the cells with |i - j| <= band.
function tables(a, b, band, edit) {
  const n = a.length, m = b.length, width = 2 * band + 1, start = RUN;
  const kept = new Float64Array((n + 1) * width).fill(Infinity), run = kept.slice();
  kept[band] = 0;
  for (let i = 0; i <= n; i++) {
    for (let j = Math.max(0, i - band), last = Math.min(m, i + band); j <= last; j++) {
      const at = i * width + j - i + band;
      let best = run[at];
      if (i && j - i < band) best = Math.min(best, Math.min(run[at - width + 1], kept[at - width + 1] + start) + edit + 1);
      if (j && j - i > -band) best = Math.min(best, Math.min(run[at - 1], kept[at - 1] + start) + edit + 1);
      if (i && j) {
        best = Math.min(best, Math.min(run[at - width], kept[at - width] + start) + edit + 2);
        if (a[i - 1] === b[j - 1]) kept[at] = Math.min(kept[at - width], run[at - width]);
      }
      run[at] = best;
    }
  }
  const end = n * width + m - n + band;
  if (Math.floor(Math.min(kept[end], run[end]) / edit) > band) return null;
  return trace(kept, run, n, m, band, width, edit);
}

// Read from the end; where two ways cost the same, the change lies later.
function trace(kept, run, n, m, band, width, edit) {
  const cell = (i, j) => i * width + j - i + band;
  const startOfRun = (end, editedEnd) => {
    const cost = run[cell(end, editedEnd)];
    for (let i = end; i >= 0; i--) {
      const gap = end - i;
      for (let j = Math.min(editedEnd - (gap ? 0 : 1), i + band); j >= Math.max(0, i - band); j--) {
        const editedGap = editedEnd - j;
        if (kept[cell(i, j)] + RUN + edit * Math.max(gap, editedGap) + gap + editedGap === cost) return [i, j];
      }
    }
    throw new Error("no start explains the cost of this run");
  };
  const cuts = [];
  for (let i = n, j = m; i > 0 || j > 0;) {
    if (kept[cell(i, j)] < run[cell(i, j)]) { i--; j--; continue; }
    const [start, editedStart] = startOfRun(i, j);
    cuts.push([start, i, editedStart, j]);
    i = Math.max(start - 1, 0);
    j = Math.max(editedStart - 1, 0);
  }
  return cuts.reverse();
}

/** How much of a text is changed, in words: {changed, of, ratio, atMost}; `atMost` when it was too much to count exactly. */
export function change(before, after) {
  const [a, b] = numbered(words(before), words(after));
  const of = Math.max(a.length, b.length);
  const [prefix, suffix] = commonEnds(a, b);
  const x = a.slice(prefix, a.length - suffix), y = b.slice(prefix, b.length - suffix);
  const exact = distance(x, y);
  const changed = exact ?? Math.max(x.length, y.length);
  return { changed, of, ratio: of ? changed / of : 0, atMost: exact === null };
}

function distance(a, b) {
  if (!a.length || !b.length) return Math.max(a.length, b.length);
  const longer = Math.max(a.length, b.length);
  for (let band = Math.abs(a.length - b.length) + 8; ; band = Math.min(2 * band, longer)) {
    if (a.length * Math.min(2 * band + 1, b.length) > 8 * MOST_CELLS) return null;
    let above = new Float64Array(b.length + 1).fill(Infinity);
    for (let j = 0; j <= Math.min(b.length, band); j++) above[j] = j;
    for (let i = 1; i <= a.length; i++) {
      const row = new Float64Array(b.length + 1).fill(Infinity);
      if (i <= band) row[0] = i;
      for (let j = Math.max(1, i - band), last = Math.min(b.length, i + band); j <= last; j++) {
        row[j] = Math.min(above[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1), above[j] + 1, row[j - 1] + 1);
      }
      above = row;
    }
    if (above[b.length] <= band || band >= longer) return above[b.length];
  }
}
