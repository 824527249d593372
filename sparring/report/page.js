"use strict";
// Choose one prompt, or filter by any word of prompts and responses. Without script every sample is simply there.
for (const section of document.querySelectorAll("[data-samples]")) {
  const controls = section.querySelector(".controls");
  const picker = controls.querySelector("select");
  const filter = controls.querySelector("input");
  const count = controls.querySelector("[data-count]");
  const cards = [...section.querySelectorAll(".card")];
  const show = () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    cards.forEach((card, place) => {
      const isPicked = picker.value === "" || picker.value === String(place);
      card.hidden = !(isPicked && card.textContent.toLowerCase().includes(wanted));
      shown += card.hidden ? 0 : 1;
    });
    count.textContent = shown === cards.length ? `all ${shown}` : `${shown} of ${cards.length}`;
  };
  picker.addEventListener("change", show);
  filter.addEventListener("input", show);
  controls.hidden = false;
  show();
}
