// Keeps the spawn form's figures current by asking for this page again. The form works without it.
(() => {
  "use strict";
  const INTERVAL_MS = 5000;
  const form = document.querySelector("[data-carrel-form]");
  const status = document.getElementById("carrel-status");
  const parts = () => form.querySelectorAll("[data-carrel-live]");
  let timer = 0;
  let failures = 0;
  form.classList.add("carrel-scripted");

  function say(text) {
    if (status.textContent !== text) status.textContent = text;
  }

  // Numbers typed for a custom slice must not stop the form from being sent with another choice.
  function checkCustom() {
    const custom = document.getElementById("carrel-custom");
    for (const input of form.querySelectorAll(".carrel-custom input")) {
      input.disabled = custom !== null && !custom.checked;
      input.required = !input.disabled;
    }
  }

  function update(page) {
    for (const part of parts()) {
      const fresh = page.querySelector(`[data-carrel-live="${part.dataset.carrelLive}"]`);
      if (!fresh || fresh.innerHTML === part.innerHTML) continue;
      part.innerHTML = fresh.innerHTML;
      const radio = part.closest(".carrel-card")?.querySelector("input");
      if (!radio) continue;
      radio.disabled = Boolean(fresh.dataset.problem);
      if (radio.checked && radio.disabled) {
        document.getElementById("carrel-none").checked = true;
        say(`The size you had chosen is ${fresh.dataset.problem}.`);
        checkCustom();
      }
    }
  }

  async function refresh() {
    try {
      // Without the query: options in it would start the server.
      const answer = await fetch(location.pathname, { credentials: "same-origin" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (page.querySelector("[data-carrel-form]")) {
        if (failures) say("");
        failures = 0;
        update(page);
      } else if (answer.redirected) {
        say("This page is out of date. Load it again.");
        return;
      } else {
        throw new Error(`HTTP ${answer.status}`);
      }
    } catch {
      failures += 1;
      say("The hub does not answer; these figures may be old.");
    }
    schedule();
  }

  function schedule() {
    window.clearTimeout(timer);
    if (!document.hidden) timer = window.setTimeout(refresh, INTERVAL_MS * Math.min(2 ** failures, 12));
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) window.clearTimeout(timer);
    else refresh();
  });
  form.addEventListener("change", checkCustom);
  checkCustom();
  schedule();
})();
