// The lead's pages and practice: redlines of edits, plain text, and the buttons that copy a new link.
import { draw } from "./redline.mjs";

for (const box of document.querySelectorAll("[data-before]")) draw(box, box.dataset.before, box.dataset.after);

for (const element of document.querySelectorAll('[data-act="plain"]')) {
  element.addEventListener("click", () => {
    const on = element.getAttribute("aria-pressed") !== "true";
    element.setAttribute("aria-pressed", String(on));
    for (const source of document.querySelectorAll(".rendered + .source")) {
      source.hidden = !on;
      source.previousElementSibling.hidden = on;
    }
  });
}

for (const copy of document.querySelectorAll('[data-act="copy"]')) {
  copy.addEventListener("click", async () => {
    const field = copy.parentElement.querySelector("input");
    field.select();
    await navigator.clipboard.writeText(field.value);
    copy.textContent = "Copied";
  });
}
