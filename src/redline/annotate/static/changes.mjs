// The single changes of an edit: the one at the cursor, and the list of all, each to be taken back and to be given a reason.
import { $ } from "./page.mjs";

const MOST = 100; // drawn at once

function shortened(text) {
  const line = text.replaceAll(/\s+/g, " ");
  return line.length > 60 ? `${line.slice(0, 60)}…` : line;
}

/** What a change is called where only words serve. */
const spoken = ({ deleted, inserted }) => [deleted && `without “${shortened(deleted)}”`, inserted && `with “${shortened(inserted)}”`].filter(Boolean).join(", ");

export class Changes {
  /** `reasons`: the project's list; `given`: [{deleted, inserted, reason}] from before; `takeBack(number)`, `jump(number)`, `changed()`. */
  constructor({ reasons, given, takeBack, jump, changed }) {
    Object.assign(this, { reasons, takeBack, jump, changed });
    this.chosen = new Map();
    this.found = [];
    this.keys = [];
    this.current = null;
    this.all = false;
    this.setGiven(given);
    $("changes").open = reasons.length > 0;
    $("changes").addEventListener("toggle", () => this.list());
  }

  setGiven(given) {
    const times = new Map();
    for (const { deleted, inserted, reason } of given) this.chosen.set(this.key({ deleted, inserted }, times), reason);
  }

  // A change is known again by its texts, and by which of several with the same texts it is.
  key({ deleted, inserted }, times) {
    const texts = JSON.stringify([deleted, inserted]);
    const time = times.get(texts) ?? 0;
    times.set(texts, time + 1);
    return `${time} ${texts}`;
  }

  /** The reasons given, for a draft. */
  get stored() { return [...this.chosen]; }

  set stored(entries) { this.chosen = new Map(entries); }

  /** The reasons given, as a submission has them. */
  get submitted() {
    return this.found.flatMap((change, place) => {
      const reason = this.chosen.get(this.keys[place]);
      return reason ? [{ number: change.number, deleted: change.deleted, inserted: change.inserted, reason }] : [];
    });
  }

  update(changes, cursor) {
    const times = new Map();
    this.found = changes;
    this.keys = changes.map((change) => this.key(change, times));
    const words = changes.length === 1 ? "1 change" : `${changes.length || "No"} changes`;
    $("changes-count").textContent = words;
    this.at(cursor);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.list(), 200);
  }

  /** The change at a place of the text, or undefined. */
  under(cursor) {
    return this.found.find(({ start, end }) => start <= cursor && cursor <= end);
  }

  at(cursor) {
    const box = $("at-cursor"), change = this.under(cursor);
    const name = change ? this.keys[change.number] + change.number : null;
    if (name === this.current) return;
    this.current = name;
    box.hidden = !change;
    box.replaceChildren(...(change ? this.row(change) : []));
  }

  list() {
    const box = $("changes-list");
    if (!$("changes").open) { box.replaceChildren(); return; }
    const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const shown = this.all ? this.found : this.found.slice(0, MOST);
    const rows = shown.map((change) => {
      const line = document.createElement("li");
      line.append(...this.row(change));
      return line;
    });
    if (shown.length < this.found.length) {
      const line = document.createElement("li"), more = document.createElement("button");
      more.type = "button";
      more.textContent = `Show the other ${this.found.length - shown.length}`;
      more.addEventListener("click", () => { this.all = true; this.list(); });
      line.append(more);
      rows.push(line);
    }
    box.replaceChildren(...rows);
    if (focused) box.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  row(change) {
    const text = document.createElement("button");
    text.type = "button";
    text.className = "link change";
    text.title = "Go there";
    for (const [tag, side] of [["del", change.deleted], ["ins", change.inserted]]) {
      if (!side) continue;
      const element = document.createElement(tag);
      element.dir = "auto";
      element.textContent = shortened(side);
      text.append(element, " ");
    }
    text.addEventListener("click", () => this.jump(change.number));
    const back = document.createElement("button");
    back.type = "button";
    back.className = "quiet";
    back.textContent = "Take back";
    back.setAttribute("aria-label", `Take back the change ${spoken(change)}`);
    back.addEventListener("click", () => this.takeBack(change.number));
    return this.reasons.length ? [text, this.select(change), back] : [text, back];
  }

  select(change) {
    const key = this.keys[change.number], select = document.createElement("select");
    select.dataset.key = key;
    select.setAttribute("aria-label", `Reason for the change ${spoken(change)}`);
    select.append(new Option("no reason", ""), ...this.reasons.map((reason) => new Option(reason, reason)));
    select.value = this.chosen.get(key) ?? "";
    select.addEventListener("change", () => {
      if (select.value) this.chosen.set(key, select.value);
      else this.chosen.delete(key);
      this.current = null;
      for (const other of document.querySelectorAll(`select[data-key="${CSS.escape(key)}"]`)) other.value = select.value;
      this.changed();
    });
    return select;
  }
}
