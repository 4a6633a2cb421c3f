// The explorer: one state (a pair of betas, axes, ε, k), drawn again after each change. Formulas: theory.js.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("explorer-data").textContent);
  const state = {beta1: 0.9, beta2: 0.999, log: true};

  // ---- text ----
  const escape = (text) => String(text).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
  const superscript = (n) => String(n).replace(/[-0-9]/g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
  function number(x, digits = 4) {
    if (x === null || Number.isNaN(x)) return "—";
    if (!Number.isFinite(x)) return x > 0 ? "∞" : "−∞";
    if (x !== 0 && (Math.abs(x) >= 1e6 || Math.abs(x) < 1e-4)) {
      const [mantissa, exponent] = x.toExponential(Math.min(digits, 3) - 1).split("e");
      return `${mantissa} × 10${superscript(Number(exponent))}`.replace(/^-/, "−");
    }
    return String(Number(x.toPrecision(digits))).replace("-", "−");
  }
  const betas = (beta1, beta2) => `betas=(${beta1}, ${beta2})`;
  const shortBetas = ([beta1, beta2]) => betas(Number(beta1.toPrecision(4)), Number(beta2.toPrecision(4)));
  const count = (x) => (x >= 1e6 ? number(x, 2) : Math.round(x).toLocaleString("en"));

  // ---- decays: the sliders' stops are short decimals, denser near 1 ----
  const MANTISSAS = [95, 90, 85, 80, 75, 70, 65, 60, 55, 50, 45, 40, 35, 32, 30, 28, 25, 22, 20, 18, 16, 15, 14, 13, 12, 11, 10];
  const STOPS = [0, ...[2, 3, 4, 5].flatMap((places) => MANTISSAS.map((m) => Number((1 - m / 10 ** places).toFixed(places))))];
  const DECADES = 4;
  const toLog = (decay) => Math.min(DECADES, Math.max(0, -Math.log10(1 - decay))) / DECADES;
  const nearestStop = (decay) => {
    const distances = STOPS.map((stop) => Math.abs(toLog(stop) - toLog(decay)));
    return distances.indexOf(Math.min(...distances));
  };
  // A decay at a place between 0 and 1 along an axis, with two significant digits of 1 − decay.
  function fromAxis(place) {
    const rest = state.log ? 10 ** (-DECADES * place) : 1 - place;
    const clipped = Math.min(1, Math.max(10 ** -DECADES, rest));
    const places = Math.max(0, 1 - Math.floor(Math.log10(clipped)));
    return Number((1 - Number(clipped.toPrecision(2))).toFixed(places));
  }

  // ---- plane ----
  const BOX = {left: 58, top: 12, width: 450, height: 436};
  const along = (decay) => (state.log ? toLog(decay) : decay);
  const px = (beta2) => BOX.left + BOX.width * along(beta2);
  const py = (beta1) => BOX.top + BOX.height * (1 - along(beta1));
  const SAMPLES = Array.from({length: 241}, (_, i) => i / 240);
  const sampled = () => SAMPLES.map((t) => (state.log ? 1 - 10 ** (-DECADES * t) : t * (1 - 1e-9)));
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "g");
  const dynamic = svg.cloneNode();
  $("plane").append(svg, dynamic);

  const runsByPair = new Map();
  for (const run of data.runs) {
    const key = run.betas.join();
    if (!runsByPair.has(key)) runsByPair.set(key, run);
  }
  const recipe = data.runs.filter((run, i) => run.variant === "rule"
    && data.runs.findIndex((other) => other.variant === "rule" && other.betas.join() === run.betas.join()) === i);

  // Puts labels beside their marks where they cover no other label, and leaves out those for which there is no place.
  function labels(marks, others) {
    const taken = [...others, ...marks.map(({x, y}) => [x - 6, y - 6, x + 6, y + 6])];
    return marks.map(({x, y, text}) => {
      const width = text.length * 6.7;
      for (const [dx, dy, anchor] of [[0, -11, "middle"], [0, 21, "middle"], [11, 4, "start"], [-11, 4, "end"],
        [0, -25, "middle"], [0, 35, "middle"]]) {
        const left = anchor === "middle" ? x + dx - width / 2 : anchor === "start" ? x + dx : x + dx - width;
        const box = [left, y + dy - 10, left + width, y + dy + 3];
        const inside = box[0] > BOX.left - 4 && box[2] < BOX.left + BOX.width + 6 && box[1] > BOX.top
          && box[3] < BOX.top + BOX.height;
        if (inside && !taken.some((t) => box[0] < t[2] && t[0] < box[2] && box[1] < t[3] && t[1] < box[3])) {
          taken.push(box);
          return `<text class="label" x="${x + dx}" y="${y + dy}" text-anchor="${anchor}">${escape(text)}</text>`;
        }
      }
      return "";
    }).join("");
  }

  function drawPlane() {
    const {left, top, width, height} = BOX, bottom = top + height, right = left + width;
    const curve = (law) => sampled().map((beta) => [px(beta), py(theory.boundaryBeta1(beta, law))]);
    const region = (law) => `${path(curve(law))}L${right} ${bottom}L${left} ${bottom}Z`;
    const ticks = state.log ? [0, 0.5, 0.9, 0.99, 0.999, 0.9999] : [0, 0.2, 0.4, 0.6, 0.8, 1];
    const taken = [];
    const levels = (state.log ? [-0.5, -0.1, -0.02, 0.02, 0.1, 0.5, 2] : [-2, -1, -0.5, 0.5, 1, 2, 5]).map((c) => {
      const points = sampled().map((beta) => [beta, theory.levelCurve(c, beta)])
        .filter(([beta, gamma]) => beta > 0 && !Number.isNaN(gamma) && (!state.log || gamma < 1 - 10 ** -DECADES))
        .map(([beta, gamma]) => [px(beta), py(gamma)]);
      const [x, y] = points[points.length - 1];
      const at = c > 0 ? [right - 4, y - 4] : [x - 4, Math.max(y, top) + 13];
      taken.push([at[0] - 60, at[1] - 10, at[0], at[1] + 3]);
      const text = `<text x="${at[0]}" y="${at[1]}" text-anchor="end">${c > 0 ? "C = " : ""}${number(c)}</text>`;
      return `<path class="level" d="${path(points)}"/>${text}`;
    });
    const marks = data.pairs.map((pair) => ({x: px(pair.betas[1]), y: py(pair.betas[0]), text: pair.name}));
    const sizes = recipe.map((run) => ({x: px(run.betas[1]), y: py(run.betas[0]), text: `B = ${run.batch[0]}`}));
    const ends = sizes.filter((_, i) => i === 0 || i === sizes.length - 1);
    svg.innerHTML = `
      <clipPath id="plane-clip"><rect x="${left}" y="${top}" width="${width}" height="${height}"/></clipPath>
      <rect x="${left}" y="${top}" width="${width}" height="${height}" style="fill:var(--unstable)"/>
      <path d="${region("exact")}" style="fill:var(--bounded)"/><path d="${region("paper")}" style="fill:var(--stable)"/>
      ${ticks.map((t) => `<path class="grid" d="M${px(t)} ${top}V${bottom}M${left} ${py(t)}H${right}"/>
        <text x="${px(t)}" y="${bottom + 17}" text-anchor="${px(t) > right - 5 ? "end" : "middle"}">${t}</text>
        <text x="${left - 7}" y="${py(t) + 4}" text-anchor="end">${t}</text>`).join("")}
      <g clip-path="url(#plane-clip)">${levels.join("")}
        <path class="law" d="${path(curve("paper"))}"/><path class="law exact" d="${path(curve("exact"))}"/></g>
      <rect class="axis" x="${left}" y="${top}" width="${width}" height="${height}"/>
      <text x="${left + width / 2}" y="${bottom + 38}" text-anchor="middle">beta2 = β</text>
      <text transform="translate(14 ${top + height / 2}) rotate(-90)" text-anchor="middle">beta1 = γ</text>
      ${[...runsByPair.values()].filter((run) => run.variant !== "rule").map((run) =>
        `<circle class="run" cx="${px(run.betas[1])}" cy="${py(run.betas[0])}" r="2.6"/>`).join("")}
      ${labels([...marks, ...ends], taken)}
      ${sizes.map(({x, y, text}, i) => `<path class="recipe" data-betas="${recipe[i].betas}"
        d="M${x} ${y - 6}l6 6l-6 6l-6 -6z"><title>recipe, ${text}</title></path>`).join("")}
      ${data.pairs.map((pair, i) => `<circle class="common" data-betas="${pair.betas}" cx="${marks[i].x}" cy="${marks[i].y}"
        r="4.5"><title>${escape(pair.name)}, ${betas(...pair.betas)}</title></circle>`).join("")}`;
  }

  function drawPoint(run, stages) {
    const x = px(state.beta2), y = py(state.beta1);
    const stage = stages.length > 1 ? [px(stages[0][1]), py(stages[0][0])] : null;
    const near = run && `<circle class="run near" cx="${px(run.betas[1])}" cy="${py(run.betas[0])}" r="4.5"/>`;
    dynamic.innerHTML = `${near || ""}
      <path class="cross" d="M${x} ${y}V${BOX.top + BOX.height}M${x} ${y}H${BOX.left}"/>
      ${stage ? `<path class="cross" d="M${x} ${y}L${stage[0]} ${stage[1]}"/>
        <rect class="stage" x="${stage[0] - 5}" y="${stage[1] - 5}" width="10" height="10"/>` : ""}
      <circle class="you" cx="${x}" cy="${y}" r="8"/>
      <circle class="handle" cx="${x}" cy="${y}" r="26" fill="transparent"/>`;
  }

  // ---- bounds against steps ----
  function drawBounds(run) {
    const steps = Number($("steps").value), {beta1, beta2} = state;
    const box = {left: 58, top: 12, width: 448, height: 206}, bottom = box.top + box.height;
    const at = Array.from({length: 161}, (_, i) => Math.round(i * (steps - 1) / 160));
    const lines = {paper: at.map((n) => theory.updateBound(beta1, beta2, n, "paper")),
      exact: at.map((n) => theory.updateBound(beta1, beta2, n, "exact"))};
    const finite = [...lines.exact, ...lines.paper, ...(run ? run.curve[1] : [])].filter((v) => v && Number.isFinite(v));
    const high = Math.min(15, Math.max(1, Math.ceil(Math.log10(Math.max(...finite, 1)) + 0.05)));
    const low = Math.max(-2, Math.min(-1, Math.floor(Math.log10(Math.min(...finite, 1)))));
    const x = (n) => box.left + box.width * (n + 1) / steps;
    const y = (v) => bottom - box.height * (Math.log10(v) - low) / (high - low);
    const line = (ns, values) => path(ns.map((n, i) => [n, values[i]]).filter(([n, v]) => v > 0 && Number.isFinite(v) && n < steps)
      .map(([n, v]) => [x(n), y(v)]));
    const every = Math.ceil((high - low) / 6);
    const decades = Array.from({length: high - low + 1}, (_, i) => low + i).filter((d) => d % every === 0);
    const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((t) => t * steps);
    $("bound").querySelectorAll("g").forEach((g) => g.remove());
    const g = svg.cloneNode();
    g.innerHTML = `
      <clipPath id="bound-clip"><rect x="${box.left}" y="${box.top}" width="${box.width}" height="${box.height}"/></clipPath>
      ${decades.map((d) => `<path class="grid" d="M${box.left} ${y(10 ** d)}H${box.left + box.width}"/>
        <text x="${box.left - 7}" y="${y(10 ** d) + 4}" text-anchor="end">${Math.abs(d) < 3 ? 10 ** d : `10${superscript(d)}`}</text>`).join("")}
      ${ticks.map((t) => `<text x="${x(t - 1)}" y="${bottom + 17}" text-anchor="middle">${t.toLocaleString("en")}</text>`).join("")}
      <text x="${box.left + box.width / 2}" y="${bottom + 36}" text-anchor="middle">step</text>
      <g clip-path="url(#bound-clip)">
        ${run ? `<path class="b-run" d="${line(...run.curve)}"/>` : ""}
        <path class="b-paper" d="${line(at, lines.paper)}"/><path class="b-exact" d="${line(at, lines.exact)}"/></g>
      <rect class="axis" x="${box.left}" y="${box.top}" width="${box.width}" height="${box.height}"/>`;
    $("bound").append(g);
    $("bound-note").innerHTML = `<b style="color:var(--exact)">Solid: exact bound.</b>
      <b style="color:var(--paper)">Dashed: paper’s bound.</b> ${run ? `<b style="color:var(--run)">Thin: largest update in the
      nearest run,</b> <code>${shortBetas(run.betas)}</code>.` : ""} Updates are in units of the learning rate, with ε = 0.`;
  }

  // ---- words ----
  const WORDS = {
    stable: () => `<b>Stable.</b> No sequence of gradients makes an update larger than
      ${number(theory.updateBound(state.beta1, state.beta2, Infinity, "exact"))} times the learning rate.`,
    bounded: () => `<b>Bounded by the exact law,</b> but outside the paper’s stable region. No update is larger than
      ${number(theory.updateBound(state.beta1, state.beta2, Infinity, "exact"))} times the learning rate.`,
    boundary: () => "<b>On the boundary.</b> Updates can grow like the square root of the number of steps.",
    unstable: () => {
      const rate = theory.growthRate(state.beta1, state.beta2, "exact");
      if (!Number.isFinite(rate)) return "<b>Unstable.</b> With beta2 = 0 only the last gradient counts in v, so there is no bound.";
      const pace = rate < 1 ? `by ${number(100 * Math.expm1(rate), 3)} % per step` : `${number(Math.exp(rate), 3)}-fold per step`;
      return `<b>Unstable.</b> Updates of a coordinate can grow ${pace}, tenfold in
        ${count(Math.max(1, Math.ceil(Math.log(10) / rate)))} step${Math.log(10) / rate > 1 ? "s" : ""}.`;
    },
  };

  function words(stages) {
    const {beta1, beta2} = state, kind = theory.verdict(beta1, beta2);
    $("sentence").innerHTML = `${WORDS[kind]()} C = ${number(theory.coefficient(beta1, beta2))}.`;
    const nearest = theory.nearestStableBeta2(beta1, beta2);
    const swapped = kind === "unstable" && beta1 > beta2 && theory.verdict(beta2, beta1) === "stable";
    $("hint").innerHTML = kind === "stable" ? ""
      : [Number.isNaN(nearest) ? "No float below 1 is a stable beta2 for this beta1." : `Nearest stable beta2: ${use([beta1, nearest])}.`,
        swapped ? `The order is torch’s. Did you mean ${use([beta2, beta1])}?` : ""].join(" ");
    const steps = Number($("steps").value);
    const rows = [
      ["coefficient", (law) => theory.coefficient(beta1, beta2, law)],
      ["bound, any step", (law) => theory.updateBound(beta1, beta2, Infinity, law)],
      [`bound, step ${steps.toLocaleString("en")}`, (law) => theory.updateBound(beta1, beta2, steps - 1, law)],
      ["growth per step", (law) => theory.growthRate(beta1, beta2, law)],
    ];
    $("laws").innerHTML = rows.map(([name, value]) => `<tr><th scope="row">${name}</th><td>${number(value("paper"))}</td>
      <td>${number(value("exact"))}</td></tr>`).join("");
    const eps = Number($("eps").value);
    if (kind !== "unstable") $("cap").textContent = "This pair is bounded without ε, so ε has no growth to end.";
    else if (beta2 === 0) $("cap").textContent = "With beta2 = 0, v forgets a gradient at once, and ε alone bounds the update.";
    else {
      const [unseen, cap] = theory.epsilonCap(beta1, beta2, eps);
      $("cap").innerHTML = unseen === 0 ? `With ε = ${$("eps").value} an update can only fall while gradients are absent.`
        : `A coordinate that receives no gradients grows for <b>${count(unseen)} steps</b>, up to <b>${number(cap, 3)} times</b>
        its update, and then falls. This holds for √v = 1 at the last gradient. Smaller gradients meet ε sooner.`;
    }
    const k = stages.length, [g, b] = stages[k - 1], last = theory.verdict(g, b);
    const bound = theory.updateBound(g, b, Infinity, "exact");
    const code = `KAdam(params, ${betas(beta1, beta2)}, k=${k}, stages="${$("strategy").value}")`;
    $("stages").innerHTML = `${k === 1 ? "One stage is Adam itself" : `Each of the ${k} stages has <code>${shortBetas([g, b])}</code>`}.
      The last stage decides: ${last === "bounded" ? "bounded by the exact law only" : last === "boundary" ? "on the boundary" : last},
      C = ${number(theory.coefficient(g, b))}, ${Number.isFinite(bound) ? `updates at most ${number(bound)}` : "no bound on updates"}.
      <br><code>${escape(code)}</code>`;
  }
  const use = (pair) => `<button type="button" data-betas="${pair}">${betas(...pair)}</button>`;

  function nearestRun() {
    let best = null, distance = Infinity;
    for (const run of data.runs) {
      const d = Math.hypot(toLog(run.betas[0]) - toLog(state.beta1), toLog(run.betas[1]) - toLog(state.beta2));
      if (d < distance - 1e-12) [best, distance] = [run, d];
    }
    return best;
  }

  function describe(run) {
    if (!run) { $("run").innerHTML = "<p>This copy contains no runs.</p>"; return; }
    const grows = run.rates.some((rate) => rate > 0), shown = grows && run.eps === 0;
    const row = (name, measured, [paper, exact]) => `<tr><th scope="row">${name}</th><td><b>${measured}</b></td>
      <td>${number(paper === null ? Infinity : paper)}</td><td>${number(exact === null ? Infinity : exact)}</td></tr>`;
    const made = [`${run.tokens === "words" ? "word" : "character"} tokens`, `ε = ${run.eps}`, `${run.dtype} state`,
      `${run.seeds} seed${run.seeds > 1 ? "s" : ""}`, `${run.steps} steps`, `${run.scale} scale`];
    const extra = run.variant === "rule" ? ` The pair is a recipe’s for batch size ${run.batch.join(", ")}.`
      : run.variant === "floor" ? " The recipe with a floor under beta2." : "";
    $("run").innerHTML = `<p>${use(run.betas.map((x) => Number(x.toPrecision(6))))} <small>${made.join(", ")}.${extra}</small></p>
      <table class="ex-table"><caption class="sr">Measured and predicted for this run</caption>
      <thead><tr><td></td><th scope="col">measured</th><th scope="col">paper’s law</th><th scope="col">exact law</th></tr></thead>
      <tbody>${row("largest update, bound", number(run.peak), run.bounds)}
      ${shown ? row("growth per step", number(run.rate), run.rates) : ""}</tbody></table>
      <p class="note">A small language model. Test loss ${number(run.loss)} nats per token.
      ${run.diverged ? `${run.diverged} of ${run.seeds} runs were not finite.` : ""}
      ${run.eps > 0 && grows ? "The laws are for ε = 0; here ε ends the growth." : ""}
      ${shown ? "Growth is the median per step while the same row holds the largest update." : ""}</p>`;
  }

  // ---- one update ----
  function show(from) {
    const {beta1, beta2} = state, text = betas(beta1, beta2);
    if (from !== "betas") $("betas").value = `${beta1}, ${beta2}`;
    for (const [name, value] of [["beta1", beta1], ["beta2", beta2]]) {
      if (from !== name) $(name).value = nearestStop(value);
      $(name).setAttribute("aria-valuetext", String(value));
      $(`${name}-value`).textContent = String(value);
    }
    $("betas").removeAttribute("aria-invalid");
    $("betas-error").textContent = "";
    $("snippet").textContent = text;
    const stages = theory.stageBetas($("strategy").value, Number($("k").value), beta1, beta2);
    const run = nearestRun();
    drawPoint(run, stages);
    words(stages);
    drawBounds(run);
    describe(run);
    for (const chip of $("pairs").children) chip.setAttribute("aria-pressed", String(chip.dataset.betas === `${beta1},${beta2}`));
  }
  function set(beta1, beta2, from) {
    [state.beta1, state.beta2] = [beta1, beta2];
    show(from);
    try { history.replaceState(null, "", `#betas=${beta1},${beta2}`); } catch { /* not allowed in some viewers */ }
  }
  function axes(log) {
    state.log = log;
    $("axes-log").setAttribute("aria-pressed", String(log));
    $("axes-linear").setAttribute("aria-pressed", String(!log));
    drawPlane();
    show();
  }

  // ---- input ----
  const parse = (text) => (text.match(/[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?/gi) || [])
    .filter((part, i, all) => all.length === 2 || !/^[12]$/.test(part)).map(Number);
  function typed() {
    const found = parse($("betas").value.replace(/beta[s12]?\s*=?/gi, " "));
    const bad = found.findIndex((x) => !(x >= 0 && x < 1));
    const error = found.length !== 2 ? "Type two numbers: beta1, beta2." : bad >= 0 ? `beta${bad + 1} must be at least 0 and below 1.` : "";
    if (!error) return set(found[0], found[1], "betas");
    $("betas").setAttribute("aria-invalid", "true");
    $("betas-error").textContent = error;
  }
  $("betas").addEventListener("input", typed);
  for (const name of ["beta1", "beta2"]) {
    $(name).max = String(STOPS.length - 1);
    $(name).addEventListener("input", () => {
      const value = STOPS[Number($(name).value)];
      set(name === "beta1" ? value : state.beta1, name === "beta2" ? value : state.beta2, name);
    });
  }
  $("pairs").innerHTML = data.pairs.map((pair) => `<button type="button" aria-pressed="false" data-betas="${pair.betas}">${
    escape(pair.name)} <small>(${pair.betas.join(", ")})</small></button>`).join("");
  $("explorer-app").addEventListener("click", (event) => {
    const target = event.target.closest("[data-betas]");
    if (target && !target.closest("#plane")) set(...target.dataset.betas.split(",").map(Number));
  });
  for (const id of ["steps", "eps", "k", "strategy"]) $(id).addEventListener("change", () => show());
  $("axes-log").addEventListener("click", () => axes(true));
  $("axes-linear").addEventListener("click", () => axes(false));

  function pointed(event) {
    const plane = $("plane"), point = new DOMPoint(event.clientX, event.clientY).matrixTransform(plane.getScreenCTM().inverse());
    const clip = (x) => Math.min(1, Math.max(0, x));
    set(fromAxis(clip(1 - (point.y - BOX.top) / BOX.height)), fromAxis(clip((point.x - BOX.left) / BOX.width)));
  }
  let dragging = false;
  $("plane").addEventListener("pointerdown", (event) => {
    const mark = event.target.closest("[data-betas]");
    if (mark) return set(...mark.dataset.betas.split(",").map(Number));
    // A finger beside the handle scrolls the page, and a tap there moves the pair (click, below).
    if (event.pointerType === "touch" && !event.target.closest(".handle")) return undefined;
    dragging = true;
    $("plane").setPointerCapture(event.pointerId);
    if (!event.target.closest(".handle")) pointed(event);
    return undefined;
  });
  $("plane").addEventListener("pointermove", (event) => { if (dragging) pointed(event); });
  for (const name of ["pointerup", "pointercancel"]) $("plane").addEventListener(name, () => { dragging = false; });
  $("plane").addEventListener("click", (event) => {
    if (event.pointerType === "touch" && !event.target.closest("[data-betas], .handle")) pointed(event);
  });

  $("copy").addEventListener("click", async () => {
    const text = $("snippet").textContent;
    try { await navigator.clipboard.writeText(text); } catch {
      const area = document.body.appendChild(Object.assign(document.createElement("textarea"), {value: text}));
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    $("copy").classList.add("copied");
    $("snippet").textContent = "copied";
    setTimeout(() => { $("snippet").textContent = betas(state.beta1, state.beta2); }, 900);
  });

  const start = parse((/^#betas=(.*)/.exec(location.hash) || [])[1] || "");
  if (start.length === 2 && start.every((x) => x >= 0 && x < 1)) [state.beta1, state.beta2] = start;
  axes(true);
})();
