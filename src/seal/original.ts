/** What an original (0.8.8) cannot parse is not sent to one. */
import type { SealDraft } from "../contracts/seal.ts";
import { MessageError } from "../message/errors.ts";

/**
 * Refuses lists whose items are not objects, at any depth: an original throws on them, and loses the message.
 *
 * @throws {MessageError} `bad-draft`
 */
export function checkForOriginal({ type, fields }: SealDraft): void {
  for (const [name, value] of Object.entries(fields)) {
    if (!isPlainList(value)) continue;
    throw new MessageError(
      "bad-draft",
      `the field "${name}" of "${type}" has a list of plain values: an original cannot read that (cms-profile = legacy)`,
    );
  }
}

function isPlainList(value: unknown): boolean {
  if (typeof value !== "object" || value === null) return false;
  if (Array.isArray(value)) {
    return value.some((item) =>
      typeof item !== "object" || item === null || Array.isArray(item) || isPlainList(item)
    );
  }
  return Object.values(value).some(isPlainList);
}
