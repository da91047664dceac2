"use strict";
// The token view: what every exit says about the token under the pointer. A click pins the box until the next click.
const data = JSON.parse(document.getElementById("token-data").textContent);
const box = document.getElementById("details");
let pinned = null;

function cell(row, text, name) {
  const td = row.insertCell();
  td.textContent = text;
  if (name) td.className = name;
}

function visible(text) {
  return "“" + text.replaceAll("\n", "↵").replaceAll("\t", "⇥") + "”";
}

function fill(span) {
  const [level, prompt, position] = span.parentElement.dataset.at.split(".").concat(span.dataset.p).map(Number);
  const exits = data[level].exits, [full, drafts] = data[level].prompts[prompt][position];
  box.replaceChildren();
  const title = document.createElement("div");
  const first = drafts.findIndex((draft) => draft[4]);
  title.innerHTML = '<span class="token"></span> <span></span>';
  title.children[0].textContent = visible(span.dataset.text ?? span.textContent);
  title.children[1].textContent =
    `token ${position + 1} · ` + (first < 0 ? "no exit agrees" : `first exit that agrees: ${exits[first]}`);
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of ["exit", "drafts", "confidence", "annealed", "entropy", "agrees"]) {
    const th = document.createElement("th");
    th.textContent = name;
    head.append(th);
  }
  const body = table.createTBody();
  drafts.forEach(([text, confidence, annealed, entropy, agrees], e) => {
    const row = body.insertRow();
    if (agrees) row.className = "agrees";
    cell(row, exits[e]);
    cell(row, visible(text), "text token");
    for (const value of [confidence, annealed, entropy]) cell(row, value.toFixed(3));
    cell(row, agrees ? "yes" : "–");
  });
  const last = body.insertRow();
  cell(last, "full");
  cell(last, visible(span.dataset.text ?? span.textContent), "text token");
  cell(last, full[0].toFixed(3));
  cell(last, "");
  cell(last, full[1].toFixed(3));
  cell(last, `margin ${full[2].toFixed(2)}`);
  box.append(title, table);
}

function show(span) {
  fill(span);
  box.style.display = "block";
  const token = span.getBoundingClientRect(), own = box.getBoundingClientRect();
  const below = token.bottom + 8 + own.height < innerHeight;
  box.style.left = Math.max(4, Math.min(token.left, innerWidth - own.width - 8)) + "px";
  box.style.top = (below ? token.bottom + 8 : Math.max(4, token.top - own.height - 8)) + "px";
}

function hide() {
  box.style.display = "none";
}

for (const view of document.querySelectorAll(".text-view")) {
  view.addEventListener("mouseover", (event) => {
    if (!pinned && event.target.dataset.p !== undefined) show(event.target);
  });
  view.addEventListener("mouseout", () => { if (!pinned) hide(); });
}
document.addEventListener("click", (event) => {
  if (pinned) pinned.classList.remove("pinned");
  const isToken = event.target.closest(".text-view") && event.target.dataset.p !== undefined;
  pinned = isToken && event.target !== pinned ? event.target : null;
  if (pinned) { pinned.classList.add("pinned"); show(pinned); } else hide();
});
addEventListener("scroll", () => { if (pinned) show(pinned); else hide(); });
document.documentElement.dataset.ready = "yes";
