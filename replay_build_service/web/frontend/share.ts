/** The buttons that copy a field. Without this script the fields are selected by hand. */

async function copy(field: HTMLInputElement | HTMLTextAreaElement): Promise<string> {
  field.focus();
  field.select();
  try {
    await navigator.clipboard.writeText(field.value);
    return "Copied.";
  } catch {
    return "Selected. Copy it with your keyboard.";
  }
}

for (const button of document.querySelectorAll<HTMLButtonElement>("[data-copies]")) {
  const field = document.getElementById(button.dataset["copies"] ?? "");
  if (field instanceof HTMLInputElement || field instanceof HTMLTextAreaElement) {
    const told = button.closest(".share")?.querySelector("[data-copied]");
    button.hidden = false;
    button.addEventListener("click", () => {
      void copy(field).then((text) => {
        if (told) {
          told.textContent = text;
        }
      });
    });
  }
}
