// The page of a link. Whoever has been here as somebody else is asked first; all others go on at once.
const form = document.getElementById("enter");
const { holder, name } = form.dataset;

async function start() {
  const response = await fetch("/api/who");
  const { who, name: current } = response.ok ? await response.json() : { who: null };
  if (who === null || String(who) === holder) { form.submit(); return; }
  const other = document.getElementById("other");
  other.textContent = `In this browser you have been ${current}. The link that you opened is ${name}’s.`;
  other.hidden = false;
  const stay = document.getElementById("stay");
  stay.firstElementChild.textContent = `Stay ${current}`;
  stay.hidden = false;
}

start();
