// While a sweep runs: ask now and then whether the page has changed, and load it again.
(() => {
  const built = document.documentElement.dataset.built;
  async function look() {
    try {
      const answer = await fetch("built", { cache: "no-store" });
      if (answer.ok && (await answer.text()).trim() !== built) location.reload();
    } catch {
      // The server is gone; the page stays as it is.
    }
  }
  setInterval(look, 2000);
})();
