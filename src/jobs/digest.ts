/** Makes a short text of a long one, from which that cannot be read. */
export type Digest = (text: string) => string;

/** Loaded where it is wanted: it costs every start of the program 10 ms. */
export async function loadDigest(): Promise<Digest> {
  const { createHash } = await import("node:crypto");
  return (text) => createHash("sha256").update(text).digest("hex");
}
