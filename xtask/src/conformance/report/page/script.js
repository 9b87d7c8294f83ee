const rows = [...document.querySelectorAll("tbody tr")];
const chips = [...document.querySelectorAll(".chip")];
const search = document.getElementById("search");

// Any of the chosen verdicts; "differences" narrows them.
function show() {
    const chosen = chips.filter((chip) => chip.ariaPressed === "true").map((chip) => chip.dataset.filter);
    const verdicts = chosen.filter((word) => word !== "differs");
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
        const is = row.dataset.is.split(" ");
        const text = row.textContent.toLowerCase();
        const fits = (verdicts.length === 0 || verdicts.some((word) => is.includes(word)))
            && (!chosen.includes("differs") || is.includes("differs"))
            && words.every((word) => text.includes(word));
        row.hidden = !fits;
        shown += fits;
    }
    document.getElementById("shown").textContent = `${shown} of ${rows.length} cases`;
}

for (const chip of chips) {
    chip.addEventListener("click", () => {
        chip.ariaPressed = chip.ariaPressed === "true" ? "false" : "true";
        show();
    });
}
search.addEventListener("input", show);
document.querySelector(".filters").hidden = false;
show();
