// The admin page: redlines of recent edits, and the button that copies a new link.
import { draw } from "./redline.mjs";

for (const box of document.querySelectorAll("[data-redline]")) {
  const [before, after] = JSON.parse(document.getElementById(`recent-${box.dataset.redline}`).textContent);
  draw(box, before, after);
}

const copy = document.querySelector('[data-act="copy"]');
copy?.addEventListener("click", async () => {
  const field = document.getElementById("link");
  field.select();
  await navigator.clipboard.writeText(field.value);
  copy.textContent = "Copied";
});
