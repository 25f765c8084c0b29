// Loads a page's scripts from its template #later after the first paint, because they would delay
// it. Then sets <html class="scripted">.

const PATIENCE_MS = 1000; // a page in a background tab is not painted

function load() {
  const scripts = [...document.importNode(document.getElementById("later").content, true).children];
  for (const script of scripts) {
    script.async = false; // they run in their order
    document.head.append(script);
  }
  scripts.at(-1).addEventListener("load", () => document.documentElement.classList.add("scripted"));
}

Promise.race([
  new Promise((done) => new PerformanceObserver(done).observe({ type: "paint", buffered: true })),
  new Promise((done) => setTimeout(done, PATIENCE_MS)),
]).then(load);
