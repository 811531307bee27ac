// A click on a column's name sorts by it; a second click turns the order round. Cells without a value stay last.
for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), row = head.parentElement, body = head.closest("table").tBodies[0];
    const column = [...row.children].indexOf(head);
    const isUp = head.getAttribute("aria-sort") !== "ascending";
    for (const other of row.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
    const value = (line) => line.children[column].dataset.v ?? line.children[column].textContent;
    const isNumber = head.dataset.kind === "number";
    const order = (a, b) => {
      const [one, two] = [value(a), value(b)];
      if (isNumber && (one === "" || two === "")) return (one === "") - (two === "");
      const found = isNumber ? one - two : one.localeCompare(two, undefined, { numeric: true });
      return isUp ? found : -found;
    };
    body.append(...[...body.rows].sort(order));
  });
}

// A click on a picture makes it as wide as the page.
for (const picture of document.querySelectorAll("button.layers")) {
  picture.addEventListener("click", () => picture.closest("figure").classList.toggle("large"));
}
