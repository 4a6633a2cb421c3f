// The artifact's page: filter of the verdicts, opening of the claim in the address, enlarged figures, printing.
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const rows = [...document.querySelectorAll("#table tbody tr")];
  function filter() {
    const chosen = new FormData($("filters")), words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = Boolean((chosen.get("source") && row.dataset.source !== chosen.get("source"))
        || (chosen.get("verdict") && row.dataset.verdict !== chosen.get("verdict")) || !words.every((word) => text.includes(word)));
      shown += !row.hidden;
    }
    $("shown").textContent = shown === rows.length ? `${shown} claims` : `${shown} of ${rows.length} claims`;
  }
  $("filters").hidden = false;
  $("filters").addEventListener("input", filter);
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  filter();

  function openTarget() {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    if (target && target.matches("details")) target.open = true;
  }
  addEventListener("hashchange", openTarget);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    const target = link && document.getElementById(link.hash.slice(1));
    if (target && target.matches("details")) target.open = true;
    const zoom = event.target.closest("[data-zoom]");
    if (!zoom) return;
    const {src, alt} = zoom.closest("figure").querySelector("img");
    $("zoom-body").replaceChildren(Object.assign(new Image(), {src, alt}));
    $("zoom").showModal();
  });
  $("zoom-close").addEventListener("click", () => $("zoom").close());
  $("zoom").addEventListener("click", (event) => { if (event.target === $("zoom")) $("zoom").close(); });
  openTarget();

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.claim:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
})();
