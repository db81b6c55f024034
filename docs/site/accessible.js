// Regions that scroll can be reached with the keyboard, and the buttons of each block of code have a name of their own.
addEventListener("load", () => setTimeout(() => {
  for (const region of document.querySelectorAll(".md-typeset__scrollwrap, .equation, pre > code, p:has(> img)")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
  document.querySelectorAll("nav.md-code__nav").forEach((buttons, number) => {
    buttons.setAttribute("aria-label", `Code block ${number + 1}`);
  });
}));
