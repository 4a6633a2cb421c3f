// Stability of Adam's update: the formulas of ctadam/theory/stability.py and the strategies of ctadam/optim/stages.py.
// The paper's γ is torch's beta1 and its β is beta2; every function takes them in torch's order. Laws: "paper", "exact".
// tests/artifact/test_explorer.py compares each function with Python's over the whole square.
const theory = (() => {
  "use strict";
  const BOUNDARY_TOLERANCE = 4 * Number.EPSILON;
  const STRATEGIES = {
    "naive": (decay, k) => decay,
    "exp": (decay, k) => decay ** k,
    "inverse-exp": (decay, k) => 1 - (1 - decay) ** (1 / k),
    "uniform": (decay, k) => Math.max(0, 1 - k * (1 - decay)),
  };

  // β/β₀ − 1, where β₀ is the boundary for this γ; accurate to rounding near 0.
  function aboveBoundary(gamma, beta, law) {
    if (law === "paper") return (2 * beta * (1 - gamma) - gamma * (1 - beta)) / gamma;
    return gamma >= 0.5 ? (beta - gamma + gamma * (1 - gamma)) / gamma ** 2 : beta / gamma ** 2 - 1;
  }

  // C = 2/γ − 1/β − 1 or C_d = ln(β/γ²): positive if updates are bounded, negative if they can grow exponentially.
  function coefficient(gamma, beta, law = "paper") {
    if (gamma === 0) return Infinity;
    if (beta === 0) return -Infinity;
    const above = aboveBoundary(gamma, beta, law);
    if (Math.abs(above) <= BOUNDARY_TOLERANCE) return 0;
    if (law === "paper") return (2 * beta * (1 - gamma) - gamma * (1 - beta)) / beta / gamma;
    if (Math.abs(above) < 1e-9) return Math.log1p(above);
    const excess = (beta - gamma + gamma * (1 - gamma)) / gamma ** 2;
    const close = Math.abs(excess) < 0.5 && gamma > 1e-4;
    return close ? Math.log1p(excess) : Math.log(beta) - 2 * Math.log(gamma);
  }

  // Largest growth rate of the update per step.
  function growthRate(gamma, beta, law = "paper") {
    return Math.max(0, -0.5 * coefficient(gamma, beta, law));
  }

  // "stable", "bounded" (by the exact law only), "boundary" or "unstable".
  function verdict(gamma, beta) {
    const exact = coefficient(gamma, beta, "exact");
    if (exact < 0) return "unstable";
    if (exact === 0) return "boundary";
    return coefficient(gamma, beta, "paper") > 0 ? "stable" : "bounded";
  }

  // Adam's bias correction of the update at step n = 0, 1, …
  function prefactor(gamma, beta, step) {
    const n1 = step + 1;
    return Math.sqrt(-Math.expm1(n1 * Math.log(beta))) / -Math.expm1(n1 * Math.log(gamma));
  }

  // Upper bound on the update at step n for any sequence of gradients; Infinity where there is none.
  function updateBound(gamma, beta, step, law = "paper") {
    const n1 = step + 1, c = coefficient(gamma, beta, law), correction = prefactor(gamma, beta, step);
    const sum = (unit) => (c === 0 ? n1 : Math.expm1(-n1 * c) / unit);
    let bound;
    if (law === "paper") {
      if (gamma === 0 && beta === 0) return 1;
      if (gamma === 0 || beta === 0) return Infinity;
      bound = correction * (1 - gamma) / gamma * Math.sqrt(beta / (1 - beta)) * Math.sqrt(sum(-c));
    } else {
      const total = beta === 0 && gamma > 0 ? (n1 === 1 ? 1 : Infinity) : sum(Math.expm1(-c));
      bound = correction * (1 - gamma) / Math.sqrt(1 - beta) * Math.sqrt(total);
    }
    return Number.isNaN(bound) ? Infinity : bound;
  }

  // The β at which the coefficient vanishes for this γ.
  function boundaryBeta2(gamma, law = "paper") {
    return law === "paper" ? gamma / (2 - gamma) : gamma ** 2;
  }

  // The γ at which it vanishes for this β.
  function boundaryBeta1(beta, law = "paper") {
    return law === "paper" ? 2 * beta / (1 + beta) : Math.sqrt(beta);
  }

  function nextAfter(value) { // the next float above a value in (0, 1)
    const bits = new BigInt64Array(1), floats = new Float64Array(bits.buffer);
    floats[0] = value;
    bits[0] += 1n;
    return floats[0];
  }

  // Nearest stable beta2 for this beta1, rounded up to be short to type; NaN if there is none below 1.
  function nearestStableBeta2(gamma, beta, law = "paper") {
    const wanted = law === "paper" ? ["stable"] : ["stable", "bounded"];
    const stable = (candidate) => candidate < 1 && wanted.includes(verdict(gamma, candidate));
    if (stable(beta)) return beta;
    const boundary = boundaryBeta2(gamma, law);
    const digits = 2 - Math.floor(Math.log10(1 - boundary));
    for (let places = digits; places <= Math.max(digits, 17); places++) {
      const unit = Number(`1e-${places}`);
      const candidate = Number((Math.ceil(boundary / unit) * unit).toFixed(places));
      for (const value of [candidate, Number((candidate + unit).toFixed(places))]) if (stable(value)) return value;
    }
    for (let value = nextAfter(boundary); value < 1; value = nextAfter(value)) if (stable(value)) return value;
    return NaN;
  }

  // Steps without gradients after which ε ends the growth of a coordinate, and by what factor its update has grown then.
  function epsilonCap(gamma, beta, eps, root = 1) {
    const a = -Math.log(gamma), b = -0.5 * Math.log(beta);
    const unseen = Math.max(0, Math.log((b - a) * root / (a * eps)) / b);
    return [unseen, Math.exp((b - a) * unseen) / (1 + eps / root * Math.exp(b * unseen))];
  }

  // γ on the level curve C = c at this β, NaN outside [0, 1).
  function levelCurve(c, beta) {
    const gamma = 2 / (1 + c + 1 / beta);
    return gamma >= 0 && gamma < 1 ? gamma : NaN;
  }

  // Betas of k-Adam's k stages, as pairs in torch's order. The last pair decides stability.
  function stageBetas(strategy, k, gamma, beta) {
    const decay = k === 1 ? (x) => x : (x) => STRATEGIES[strategy](x, k);
    return Array.from({length: k}, () => [decay(gamma), decay(beta)]);
  }

  return {BOUNDARY_TOLERANCE, STRATEGIES, coefficient, growthRate, verdict, prefactor, updateBound, boundaryBeta1,
    boundaryBeta2, nearestStableBeta2, epsilonCap, levelCurve, stageBetas};
})();
if (typeof module !== "undefined") module.exports = theory;
