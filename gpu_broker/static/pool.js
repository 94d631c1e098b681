// Keeps the GPU page current, and asks before something is ended. The page works without it.
(() => {
  "use strict";
  const INTERVAL_MS = 3000;
  const main = document.querySelector("main[data-live]");
  const content = document.getElementById("carrel-content");
  const status = document.getElementById("carrel-live");
  let timer = 0;
  let failures = 0;

  async function refresh() {
    // A form that is being used must not be swapped away under the pointer or the focus.
    const busy = content.querySelector("form:focus-within, form:hover");
    if (!busy) {
      try {
        const answer = await fetch(main.dataset.live, {
          headers: { "X-Carrel-Fragment": "1", "X-XSRFToken": main.dataset.xsrf },
          credentials: "same-origin",
        });
        if (answer.status === 401 || answer.status === 403) {
          say("You are no longer logged in. Load the page again.");
          return;
        }
        if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
        content.innerHTML = await answer.text();
        failures = 0;
        say("");
      } catch {
        failures += 1;
        say("The GPU broker does not answer; what you see may be old.");
      }
    }
    schedule();
  }

  function say(text) {
    if (status.textContent !== text) status.textContent = text;
  }

  function schedule() {
    window.clearTimeout(timer);
    if (document.hidden) return;
    timer = window.setTimeout(refresh, INTERVAL_MS * Math.min(2 ** failures, 10));
  }

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) window.clearTimeout(timer);
    else refresh();
  });
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });
  schedule();
})();
