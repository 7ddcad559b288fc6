// What the page uses of CodeMirror. `npm ci && npm run build` makes ../static/codemirror.bundle.mjs of it.
export { EditorState, StateEffect, StateField, Transaction } from "@codemirror/state";
export { Decoration, EditorView, ViewPlugin, WidgetType, highlightSpecialChars, keymap } from "@codemirror/view";
export {
  history, insertNewline, isolateHistory, redo, redoDepth, standardKeymap, undo, undoDepth,
} from "@codemirror/commands";
