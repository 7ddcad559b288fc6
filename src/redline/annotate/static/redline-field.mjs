// The field in which the redline itself is edited: CodeMirror with our marks. What is deleted stands struck through between the letters;
// what is inserted is underlined. A click on either mark's handle takes that change back.
import {
  Decoration, EditorState, EditorView, StateEffect, StateField, Transaction, ViewPlugin, WidgetType, highlightSpecialChars, history,
  insertNewline, isolateHistory, keymap, redo, redoDepth, standardKeymap, undo, undoDepth,
} from "./codemirror.bundle.mjs";
import { sameLetters, spaces } from "./diff.mjs";
import { HIDDEN, direction, named, put, signs } from "./redline.mjs";

const setMarks = StateEffect.define();
const marksField = StateField.define({
  create: () => Decoration.none,
  update(marks, transaction) {
    for (const effect of transaction.effects) if (effect.is(setMarks)) return effect.value;
    return transaction.docChanged ? marks.map(transaction.changes) : marks;
  },
  provide: (field) => EditorView.decorations.from(field),
});

class Struck extends WidgetType {
  constructor(change) {
    super();
    Object.assign(this, { lead: change.lead, text: change.deleted, number: change.number });
    this.same = sameLetters(change.deleted, change.inserted);
  }

  eq(other) {
    return this.text === other.text && this.lead === other.lead && this.number === other.number && this.same === other.same;
  }

  toDOM() {
    const box = document.createElement("span");
    box.className = "cm-struck";
    box.dataset.change = this.number;
    box.title = "Click: take this change back";
    put(box, this.lead);
    const struck = document.createElement("del");
    put(struck, this.text);
    box.append(struck);
    if (this.same) box.append(Object.assign(document.createElement("span"), { className: "same-letters", textContent: "same letters" }));
    return box;
  }
}

class Handle extends WidgetType {
  constructor(number) {
    super();
    this.number = number;
  }

  eq(other) { return this.number === other.number; }

  toDOM() {
    const handle = document.createElement("span");
    handle.className = "cm-takeback";
    handle.dataset.change = this.number;
    handle.title = "Click: take this insertion back";
    handle.textContent = "×";
    return handle;
  }
}

class Space extends WidgetType {
  constructor(text) {
    super();
    this.text = text;
  }

  eq(other) { return this.text === other.text; }

  toDOM() {
    const mark = document.createElement("del");
    mark.className = "space";
    mark.textContent = signs(this.text);
    return mark;
  }
}

function decorations(found, original, text) {
  const ranges = [];
  for (const change of found.changes) {
    const { start, end, number, deleted, inserted } = change;
    if (deleted) ranges.push(Decoration.widget({ widget: new Struck(change), side: -1 }).range(start));
    if (inserted) ranges.push(Decoration.mark({ class: "cm-inserted", tagName: "ins" }).range(start, end));
    if (inserted && !deleted) ranges.push(Decoration.widget({ widget: new Handle(number), side: 1 }).range(end));
  }
  for (const { from, to, old } of spaces(original, text, found)) {
    if (to > from) ranges.push(Decoration.mark({ class: "cm-space" }).range(from, to));
    else ranges.push(Decoration.widget({ widget: new Space(old), side: -1 }).range(from));
  }
  return Decoration.set(ranges, true);
}

// Each paragraph has the direction of its own first letter; only lines that are drawn are looked at.
const RIGHT_TO_LEFT = Decoration.line({ attributes: { dir: "rtl" } });
function directions(view) {
  const ranges = [];
  for (const { from, to } of view.visibleRanges) {
    for (let at = from; at <= to;) {
      const line = view.state.doc.lineAt(at);
      if (direction(line.text) === "rtl") ranges.push(RIGHT_TO_LEFT.range(line.from));
      at = line.to + 1;
    }
  }
  return Decoration.set(ranges, true);
}
const directionPlugin = ViewPlugin.fromClass(class {
  constructor(view) { this.decorations = directions(view); }

  update(update) {
    if (update.docChanged || update.viewportChanged) this.decorations = directions(update.view);
  }
}, { decorations: (plugin) => plugin.decorations });

// By the letter and Shift alone, so that Caps Lock does not make an undo of a redo.
function undoKeys(event, view) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || !/^[zy]$/i.test(event.key)) return false;
  if (event.shiftKey || /y/i.test(event.key)) redo(view);
  else undo(view);
  event.preventDefault();
  return true;
}

function hiddenCharacters() {
  const render = (code) => {
    const mark = document.createElement("span");
    mark.className = "hidden-mark";
    mark.textContent = named(String.fromCodePoint(code));
    return mark;
  };
  return highlightSpecialChars({ specialChars: HIDDEN, render });
}

export class RedlineField {
  /** `changed`: called after each change, except half-way through a composition; `moved`: when the cursor moved. */
  constructor(parent, text, changed, moved, takeBack) {
    this.changed = changed;
    this.pending = false;
    const listener = EditorView.updateListener.of((update) => {
      if (update.docChanged) {
        if (this.composing) this.pending = true;
        else this.changed();
      } else if (update.selectionSet && !this.composing) moved();
    });
    const nonce = document.querySelector("meta[name=csp-nonce]").content;
    const state = EditorState.create({
      doc: text,
      extensions: [
        history({ minDepth: 1000, newGroupDelay: 800 }),
        EditorView.domEventHandlers({ keydown: undoKeys }),
        keymap.of([{ key: "Enter", run: insertNewline }, ...standardKeymap]),
        EditorView.lineWrapping,
        EditorView.perLineTextDirection.of(true),
        EditorView.cspNonce.of(nonce),
        EditorView.contentAttributes.of({
          id: "editor", spellcheck: "true", autocapitalize: "off", "aria-labelledby": "editor-title", "aria-describedby": "meter-text",
        }),
        EditorState.tabSize.of(4),
        hiddenCharacters(),
        marksField,
        directionPlugin,
        listener,
      ],
    });
    parent.replaceChildren();
    this.view = new EditorView({ state, parent });
    this.view.contentDOM.addEventListener("compositionend", () => setTimeout(() => this.composed(), 20));
    this.view.dom.addEventListener("click", (event) => {
      const mark = event.target.closest("[data-change]");
      if (!mark) return;
      event.preventDefault();
      takeBack(Number(mark.dataset.change));
    });
    this.view.scrollDOM.tabIndex = -1;
  }

  composed() {
    if (this.composing || !this.pending) return;
    this.pending = false;
    this.changed();
  }

  get composing() { return this.view.composing || this.view.compositionStarted; }

  get text() { return this.view.state.doc.toString(); }

  get cursor() { return this.view.state.selection.main.head; }

  get scroller() { return this.view.scrollDOM; }

  get canUndo() { return undoDepth(this.view.state) > 0; }

  get canRedo() { return redoDepth(this.view.state) > 0; }

  undo() { undo(this.view); }

  redo() { redo(this.view); }

  splice(from, to, insert) {
    this.view.dispatch({
      changes: { from, to, insert }, selection: { anchor: from + insert.length }, annotations: isolateHistory.of("full"),
      userEvent: "input.redline", scrollIntoView: true,
    });
  }

  replace(text) {
    if (text === this.text) return;
    this.view.dispatch({
      changes: { from: 0, to: this.view.state.doc.length, insert: text }, annotations: isolateHistory.of("full"), userEvent: "input.redline",
    });
  }

  remember(text) {
    const now = this.text;
    this.view.dispatch({
      changes: { from: 0, to: now.length, insert: text }, annotations: Transaction.addToHistory.of(false),
    });
    this.replace(now);
  }

  select(from, to) {
    this.view.focus();
    this.view.dispatch({ selection: { anchor: from, head: to }, scrollIntoView: true });
  }

  focus() { this.view.focus(); }

  marks(found, original) {
    this.view.dispatch({ effects: setMarks.of(decorations(found, original, this.text)), annotations: Transaction.addToHistory.of(false) });
  }

  mono(on) {
    this.view.contentDOM.classList.toggle("mono", on);
    this.view.requestMeasure();
  }

  destroy() { this.view.destroy(); }
}
