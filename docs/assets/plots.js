// Draws the plots of the tutorials, <div class="plot" data-plot="NAME">, in the colours of the page.
// The data of each are in NAME.js next to the page, the library is loaded where there is a plot.
(() => {
  const places = [...document.querySelectorAll("[data-plot]")];
  if (!places.length) return;
  const here = document.currentScript.src;
  const load = (src) => new Promise((done, failed) =>
    document.head.append(Object.assign(document.createElement("script"), { src, onload: done, onerror: failed })));
  window.plots = {};

  const colours = () => {
    const style = getComputedStyle(document.body);
    const ink = style.getPropertyValue("--md-default-fg-color--light").trim();
    const line = style.getPropertyValue("--md-default-fg-color--lightest").trim();
    return { ink, line };
  };
  const draw = () => {
    const { ink, line } = colours();
    for (const place of places) {
      const { data, layout, frames } = structuredClone(window.plots[place.dataset.plot]);
      Object.assign(layout, { paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: ink } });
      for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key)))
        Object.assign(layout[axis], { gridcolor: line, linecolor: line, zerolinecolor: line });
      layout.width = Math.max(place.clientWidth, 640); // a narrow page scrolls it
      Plotly.newPlot(place, data, layout, { displayModeBar: false })
        .then(() => frames && Plotly.addFrames(place, frames));
    }
  };
  load(new URL("plotly.min.js", here).href)
    .then(() => Promise.all(places.map((place) => load(place.dataset.plot + ".js"))))
    .then(draw);
  window.addEventListener("resize", () => window.Plotly && draw());
  new MutationObserver(draw).observe(document.body, { attributeFilter: ["data-md-color-scheme"] });
})();
