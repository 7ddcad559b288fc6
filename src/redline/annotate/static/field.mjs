// The plain text field, with an undo of its own, because resets and drafts must be undone too.

export class PlainField {
  /** `changed`: called after each change, except half-way through a composition of an input method. */
  constructor(parent, text, changed) {
    this.changed = changed;
    this.past = [];
    this.future = [];
    this.kind = "";
    this.spaced = false;
    this.when = 0;
    this.element = document.createElement("textarea");
    Object.assign(this.element, { id: "editor", dir: "auto", spellcheck: true, autocomplete: "off", rows: 6 });
    this.element.setAttribute("autocapitalize", "off");
    this.element.setAttribute("aria-labelledby", "editor-title");
    this.element.setAttribute("aria-describedby", "meter-text");
    parent.replaceChildren(this.element);
    this.element.value = text;
    this.element.setSelectionRange(0, 0);
    this.shown = this.snapshot();
    this.composing = false;
    this.element.addEventListener("compositionstart", () => { this.composing = true; });
    this.element.addEventListener("compositionend", () => { this.composing = false; this.changed(); });
    this.element.addEventListener("input", (event) => this.input(event));
    this.element.addEventListener("beforeinput", (event) => {
      if (event.inputType !== "historyUndo" && event.inputType !== "historyRedo") return;
      event.preventDefault();
      if (event.inputType === "historyUndo") this.undo();
      else this.redo();
    });
    this.onSelect = () => { if (document.activeElement === this.element) this.shown = this.snapshot(); };
    document.addEventListener("selectionchange", this.onSelect);
  }

  get text() { return this.element.value; }

  get cursor() { return this.element.selectionStart; }

  get scroller() { return this.element; }

  get canUndo() { return this.past.length > 0; }

  get canRedo() { return this.future.length > 0; }

  snapshot() {
    const { value, selectionStart, selectionEnd } = this.element;
    return { text: value, from: selectionStart, to: selectionEnd };
  }

  input(event) {
    const typing = /^(insertText|deleteContentBackward|deleteContentForward|insertCompositionText)$/.test(event.inputType);
    const space = /\s/.test(event.data ?? "");
    const pause = Date.now() - this.when > 1500;
    if (!typing || event.inputType !== this.kind || (space && !this.spaced) || pause) { // a step is a word and the space before it
      this.past.push(this.shown);
      if (this.past.length > 1000) this.past.shift();
    }
    this.future.length = 0;
    this.kind = typing ? event.inputType : "";
    this.spaced = space;
    this.when = Date.now();
    this.after();
  }

  after() {
    this.shown = this.snapshot();
    if (!this.composing) this.changed();
  }

  step(from, to) {
    if (!from.length) return;
    to.push(this.snapshot());
    const { text, from: start, to: end } = from.pop();
    this.element.value = text;
    this.element.setSelectionRange(start, end);
    this.kind = "";
    this.after();
  }

  undo() { this.step(this.past, this.future); }

  redo() { this.step(this.future, this.past); }

  /** Put `text` in the place [from, to), as one step that can be undone; the cursor stands behind it. */
  splice(from, to, text) {
    this.past.push(this.snapshot());
    this.future.length = 0;
    this.element.setRangeText(text, from, to, "end");
    this.kind = "";
    this.after();
  }

  replace(text) {
    if (text !== this.text) this.splice(0, this.text.length, text);
  }

  /** Make an older text what Undo brings back. */
  remember(text) {
    this.past.push({ text, from: 0, to: 0 });
  }

  select(from, to) {
    this.element.focus();
    this.element.setSelectionRange(from, to);
  }

  focus() { this.element.focus({ preventScroll: true }); }

  marks() {} // the redline is beside it

  mono(on) { this.element.classList.toggle("mono", on); }

  destroy() { document.removeEventListener("selectionchange", this.onSelect); }
}
