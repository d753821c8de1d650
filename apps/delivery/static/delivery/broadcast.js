// Keeps the page of a broadcast up to date, as long as it is looked at and the broadcast is not over.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const panel = document.querySelector("[data-live]");
  if (!panel) return;
  const EVERY_MS = 1000, AFTER_FAILURE_MS = 5000;
  const numbers = new Intl.NumberFormat(document.documentElement.lang || "en");
  const all = (name) => panel.querySelectorAll(name);
  const show = (name, text) => all(`[data-show="${name}"]`).forEach((one) => { one.textContent = text; });
  const hide = (name, isHidden) => all(name).forEach((one) => { one.hidden = isHidden; });

  function duration(seconds) {
    const s = Math.max(0, Math.round(seconds));
    if (s < 60) return `${s} s`;
    if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
    return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  }

  function draw(live) {
    const badge = panel.querySelector('[data-show="state"]');
    badge.className = `bc-state bc-state-${live.state}`;
    show("state", live.state);
    show("reason", live.reason);
    show("percent", `${live.percent} %`);
    for (const name of ["done", "recipients", "waiting"]) show(name, numbers.format(live[name]));
    show("rate", `${numbers.format(live.rate_per_s)} /s`);
    show("eta", live.eta ? duration((new Date(live.eta) - new Date(live.as_of)) / 1000) : "—");
    show("errors", live.error_percent === null ? "—" : `${live.error_percent} %`);
    show("canary", live.canary);
    hide('[data-show="planning"]', live.is_planned);
    hide('[data-row="waiting"]', !live.waiting);
    for (const part of live.parts) {
      const bar = panel.querySelector(`[data-bar="${part.status}"]`);
      bar.setAttribute("x", `${part.start}%`);
      bar.setAttribute("width", `${part.width}%`);
      panel.querySelector(`[data-alone="${part.status}"]`).setAttribute("width", `${part.width}%`);
      panel.querySelector(`[data-count="${part.status}"]`).textContent = numbers.format(part.count);
      hide(`[data-row="${part.status}"]`, !part.count);
    }
    all("[data-verb]").forEach((link) => { link.hidden = !live.verbs.includes(link.dataset.verb); });
  }

  const fresh = panel.querySelector('[data-show="fresh"]');
  function say(text, isStale) {
    fresh.textContent = text;
    fresh.classList.toggle("bc-stale", isStale);
  }

  let timer;
  async function refresh() {
    clearTimeout(timer);
    if (document.hidden) return;
    let wait = EVERY_MS;
    try {
      const answer = await fetch(panel.dataset.live, { headers: { Accept: "application/json" } });
      if (!answer.ok || answer.redirected) throw new Error(answer.status);
      const live = await answer.json();
      draw(live);
      say(`as of ${new Date(live.as_of).toLocaleTimeString()}`, false);
      if (live.is_over) return;
    } catch {
      wait = AFTER_FAILURE_MS;
      say("no answer from the server, trying again", true);
    }
    timer = setTimeout(refresh, wait);
  }
  document.addEventListener("visibilitychange", refresh);
  refresh();
});
