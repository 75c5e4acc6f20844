"use strict";
// Ties the pictures, the sliders, the table and the cards of the page together. Texts from the run go in as text only.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = new Map(data.datasets.trials.map((point) => [point.id, point]));
  const searched = data.datasets.trials.filter((point) => point.kind === "front" || point.kind === "trial");
  const $ = (id) => document.getElementById(id);
  let frontView = null;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const themeConfig = () => ({
    background: null,
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: { labelColor: css("--soft"), titleColor: css("--soft"), gridColor: css("--grid"), domainColor: css("--line"),
      tickColor: css("--line"), labelFontSize: 12, titleFontSize: 12, titleFontWeight: 500, titlePadding: 8 },
    legend: { labelColor: css("--ink"), titleColor: css("--soft") },
    text: { color: css("--ink") },
  });

  // ---- drawing -------------------------------------------------------------------------------------------------------
  // one picture that cannot be drawn (a parameter called __proto__) does not take the page with it
  const draw = (element) => paint(element).catch((error) => {
    element.textContent = `This picture cannot be drawn: ${error.message}`;
  });
  async function paint(element) {
    const spec = data.specs[element.dataset.spec];
    if (!spec) return;
    const named = spec.data && spec.data.name ? { [spec.data.name]: data.datasets[spec.data.name] } : {};
    const isFront = element.dataset.spec === "front";
    const isDense = element.dataset.spec.startsWith("slice_") || element.dataset.spec.startsWith("pair_");
    // thousands of points in many small pictures: canvas; the front is svg, so that its points can be reached and named
    const { view } = await vegaEmbed(element, { ...spec, datasets: named }, {
      actions: false, renderer: isDense ? "canvas" : "svg", config: themeConfig(), logLevel: 1, // errors only: a kind of trial that a run does not have is no warning
    });
    element.view = view;
    if (isFront) await prepareFront(view, element);
  }

  const figures = [...document.querySelectorAll(".figure")];
  const isShown = (element) => { const fold = element.closest("details"); return !fold || fold.open; };
  const drawAll = () => Promise.all(figures.filter(isShown).map(draw));
  document.querySelectorAll("details.lazy").forEach((fold) => fold.addEventListener("toggle", () => {
    if (fold.open) fold.querySelectorAll(".figure").forEach((element) => { if (!element.view) draw(element); });
  }));

  // ---- the front: budget lines, sliders, pick ---------------------------------------------------------------------------
  const limits = { budget: null, floor: null };
  const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
  const [costLow, costHigh] = searched.length ? range(searched.map((point) => point.cost)) : [1, 2];
  const [accuracyLow, accuracyHigh] = searched.length ? range(searched.map((point) => point.accuracy)) : [0, 1];
  const even = data.axis.isLog ? Math.log : (value) => value, back = data.axis.isLog ? Math.exp : (value) => value;
  const low = even(costLow * 0.98), span = even(costHigh * 1.02) - low || 1;
  const fromSlider = {
    budget: (place) => (place >= 1000 ? null : back(low + (place / 1000) * span)),
    floor: (place) => (place <= 0 ? null : accuracyLow + (place / 1000) * (accuracyHigh - accuracyLow)),
  };
  const toSlider = {
    budget: (value) => (value === null ? 1000 : Math.round(((even(value) - low) / span) * 1000)),
    floor: (value) => (value === null ? 0 : Math.round(((value - accuracyLow) / (accuracyHigh - accuracyLow || 1)) * 1000)),
  };
  const steps = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"], [1, ""], [1e-3, "m"], [1e-6, "µ"], [1e-9, "n"], [1e-12, "p"]];
  function showCost(value) {
    if (!value) return `0 ${data.axis.unit === "J" || data.axis.unit === "s" ? data.axis.unit : ""}`.trim();
    const [factor, prefix] = steps.find(([size]) => value >= size * 0.9995) || steps[steps.length - 1];
    const unit = { J: "J", s: "s" }[data.axis.unit] || "";
    return `${(value / factor).toPrecision(3)} ${prefix}${unit}`.trim();
  }
  const showAccuracy = (value) => `${(value * 100).toFixed(2)} %`;

  function pick() {
    const fitting = searched.filter((point) => (limits.budget === null || point.cost <= limits.budget)
      && (limits.floor === null || point.accuracy >= limits.floor));
    const byBudget = (a, b) => b.accuracy - a.accuracy || a.cost - b.cost;
    const byFloor = (a, b) => a.cost - b.cost || b.accuracy - a.accuracy;
    return fitting.sort(limits.budget === null && limits.floor !== null ? byFloor : byBudget)[0] || null;
  }

  function showPick() {
    const text = $("picked");
    text.replaceChildren();
    document.querySelectorAll("tr.is-picked").forEach((row) => row.classList.remove("is-picked"));
    if (limits.budget === null && limits.floor === null) return;
    const chosen = pick();
    if (!chosen) {
      text.textContent = "Nothing fits; move a line.";
      return;
    }
    const row = document.querySelector(`tr[data-trial="${CSS.escape(chosen.id)}"]`);
    if (row) row.classList.add("is-picked");
    const link = document.createElement("button");
    link.type = "button";
    link.textContent = chosen.id;
    link.addEventListener("click", () => openTrial(chosen.id));
    const margin = !limits.budget ? "" : `, ${((1 - chosen.cost / limits.budget) * 100).toFixed(1)} % under the budget`;
    text.append("Picked ", link, ` with ${showAccuracy(chosen.accuracy)} at ${showCost(chosen.cost)}${margin}.`);
  }

  function setLimit(name, value) {
    limits[name] = value;
    $(name).value = toSlider[name](value);
    $(`${name}-text`).textContent = value === null ? (name === "budget" ? "no limit" : "no floor")
      : name === "budget" ? showCost(value) : showAccuracy(value);
    $(name).setAttribute("aria-valuetext", $(`${name}-text`).textContent);
    if (frontView) frontView.signal(name, value).runAsync();
    showPick();
  }

  async function prepareFront(view, element) {
    frontView = view;
    for (const name of ["show_stopped", "show_failed", "zoomed"]) view.signal(name, $(name).checked);
    for (const name of ["budget", "floor"]) view.signal(name, limits[name]);
    await view.runAsync();
    view.addEventListener("click", (event, item) => { if (item && item.datum && byId.has(item.datum.id)) openTrial(item.datum.id); });
    let dragged = null;
    view.addEventListener("pointerdown", (event, item) => {
      const name = item && item.mark && item.mark.name ? item.mark.name.replace(/_handle_marks$/, "") : null;
      dragged = name === "budget" || name === "floor" ? name : null;
      if (dragged) event.preventDefault();
    });
    element.onpointermove = (event) => {
      if (!dragged) return;
      const box = element.querySelector("svg").getBoundingClientRect();
      const [left, top] = view.origin();
      const scale = box.width / view.container().querySelector("svg").viewBox.baseVal.width || 1;
      const place = dragged === "budget" ? (event.clientX - box.left) / scale - left : (event.clientY - box.top) / scale - top;
      const value = view.scale(dragged === "budget" ? "x" : "y").invert(place);
      setLimit(dragged, dragged === "budget" ? Math.min(Math.max(value, costLow * 0.98), costHigh * 1.02)
        : Math.min(Math.max(value, accuracyLow), accuracyHigh));
      event.preventDefault();
    };
    element.onpointerup = element.onpointerleave = () => { dragged = null; };
  }

  // ---- cards -----------------------------------------------------------------------------------------------------------------
  function openTrial(id) {
    const card = $(`card-${id}`);
    if (card) {
      card.open = true;
      card.scrollIntoView({ block: "start" });
      card.querySelector("summary").focus({ preventScroll: true });
      return;
    }
    const point = byId.get(id), panel = $("chosen");
    const lines = [["accuracy", showAccuracy(point.accuracy)], [data.axis.name, showCost(point.cost)], ["state", point.kind],
      ["test accuracy", point.test], ["MACs", point.macs], ["epochs", point.epochs], ["reason", point.error],
      ...Object.entries(point.params)];
    const title = document.createElement("h3");
    title.textContent = `${point.label} (${point.kind === "control" ? "control, not searched" : "not on the front"})`;
    const list = document.createElement("dl");
    for (const [name, value] of lines.filter(([, value]) => value !== undefined && value !== null)) {
      const line = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
      term.textContent = name;
      text.textContent = String(value);
      line.append(term, text);
      list.append(line);
    }
    panel.replaceChildren(title, list);
    panel.hidden = false;
    panel.focus();
  }
  const openFromAddress = () => {
    const card = location.hash.startsWith("#card-") ? document.getElementById(location.hash.slice(1)) : null;
    if (card) openTrial(card.id.slice(5));
  };
  window.addEventListener("hashchange", openFromAddress);
  document.querySelectorAll('a[href^="#card-"]').forEach((link) => link.addEventListener("click", (event) => {
    event.preventDefault();
    history.replaceState(null, "", link.hash);
    openTrial(link.hash.slice(6));
  }));

  // ---- controls --------------------------------------------------------------------------------------------------------------
  if ($("budget")) {
    for (const name of ["budget", "floor"]) $(name).addEventListener("input", () => setLimit(name, fromSlider[name](Number($(name).value))));
    for (const name of ["show_stopped", "show_failed", "zoomed"]) {
      $(name).addEventListener("change", () => frontView && frontView.signal(name, $(name).checked).runAsync());
    }
  }
  document.querySelectorAll("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
    const text = button.parentElement.querySelector("code");
    try { await navigator.clipboard.writeText(text.textContent); } catch {
      getSelection().selectAllChildren(text);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const showTheme = () => $("theme").setAttribute("aria-pressed", String(isDark()));
  $("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
    figures.forEach((element) => { if (element.view) element.view.finalize(); element.view = null; });
    drawAll();
  });
  system.addEventListener("change", () => { showTheme(); drawAll(); });

  showTheme();
  drawAll().then(() => {
    // a line to take hold of, where the middle of the front is
    const front = searched.filter((point) => point.kind === "front").sort((a, b) => a.cost - b.cost);
    if (front.length) setLimit("budget", front[Math.floor(front.length / 2)].cost * 1.03);
    document.documentElement.dataset.ready = "true";
    openFromAddress();
  });
})();
