// Brings a page's scripts, which wait in its template #later, once its first content is painted:
// before that they only put it off. Says when they run: <html class="scripted">.

const PATIENCE_MS = 1000; // a page in a tab behind is not painted

function bring() {
  const scripts = [...document.importNode(document.getElementById("later").content, true).children];
  for (const script of scripts) {
    script.async = false; // they run in their order
    document.head.append(script);
  }
  scripts.at(-1).addEventListener("load", () => document.documentElement.classList.add("scripted"));
}

Promise.race([
  new Promise((tell) => new PerformanceObserver(tell).observe({ type: "paint", buffered: true })),
  new Promise((tell) => setTimeout(tell, PATIENCE_MS)),
]).then(bring);
