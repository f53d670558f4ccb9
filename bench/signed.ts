/** Messages that openssl has signed, and the key store of who verifies them. */
import { Buffer } from "node:buffer";
import { join } from "node:path";
import { encodeFrames } from "../src/zmtp/frame.ts";
import { openssl, Pki } from "../test/helpers/pki.ts";
import { folder } from "./forwarders.ts";

const BODY_BYTES = 600;
const NO_IDENTITY = new Uint8Array(0);

/** A message, and what of it is verified. */
export interface SignedMessage {
  body: string;
  signature: Uint8Array;
  /** Its frames, from the delimiter on. */
  bytes: Uint8Array;
}

let made: Pki | null = null;

/** A key store with a CA, `ca`, and a key of RSA-2048 that it has issued, `rsa`. */
export function keyStore(): Pki {
  if (made === null) {
    made = new Pki(join(folder, "keys"));
    made.ca("ca");
    made.issue("rsa", { kind: "rsa", by: "ca" });
  }
  return made;
}

/** The `i`-th message of a type, signed by `rsa` with SHA-256. */
export function signedMessage(type: string, i: number, more: object = {}): SignedMessage {
  const pki = keyStore();
  const fields = { req: type, time: 1795331293.1 + i, hostname: "host", blob_hash: "", ...more, n: i };
  const start = JSON.stringify({ ...fields, filler: "" });
  const body = JSON.stringify({ ...fields, filler: "x".repeat(BODY_BYTES - start.length) });
  const by = ["-signer", pki.path("rsa.crt"), "-inkey", pki.path("private/rsa.key"), "-md", "sha256"];
  const signature = openssl(["cms", "-sign", "-binary", "-outform", "DER", "-nosmimecap", ...by], body);
  const bytes = encodeFrames([NO_IDENTITY, Buffer.from(type), Buffer.from(body), signature]);
  return { body, signature, bytes };
}
