/** How tests tell losses apart. */
/** Reasons of what a client sends, in the server that it was sent to or on a link behind it. */
export const UP: readonly string[] = [
  "upstream-down",
  "upstream-full",
  "too-large",
  "oversized",
  "too-many-frames",
  "breaks-link",
  "link-lost",
  "linger",
];
