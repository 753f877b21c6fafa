"use strict";
// Without this script the page shows everything; with it, it can be narrowed down.
const toolbar = document.querySelector(".toolbar");
if (toolbar) {
  const filters = [...toolbar.querySelectorAll("[data-filter]")];
  const count = toolbar.querySelector("output");
  const show = () => {
    let shown = 0;
    for (const task of document.querySelectorAll(".task")) {
      let some = false;
      for (const item of task.querySelectorAll(".trajectory")) {
        item.hidden = filters.some((f) => f.value && item.dataset[f.dataset.filter] !== f.value);
        if (!item.hidden) { some = true; shown += 1; }
      }
      task.hidden = !some;
    }
    count.textContent = shown + " shown";
  };
  toolbar.addEventListener("change", show);
  toolbar.addEventListener("submit", (event) => event.preventDefault());
  toolbar.addEventListener("click", (event) => {
    if (!event.target.dataset.open) return;
    const open = event.target.dataset.open === "true";
    for (const item of document.querySelectorAll(".trajectory:not([hidden]) > details")) item.open = open;
  });
  toolbar.hidden = false;
  show();
}
