/** Verifies one signature of RSA-2048 with SHA-256 again and again, for so many seconds, and says how often it could. */
import { generateKeyPairSync, randomBytes, sign, verify } from "node:crypto";
import process from "node:process";

const seconds = Number(process.argv[2]);
/** What a signature covers has so many bytes: the signed attributes. */
const ATTRIBUTES_BYTES = 77;
const { publicKey, privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });
const attributes = randomBytes(ATTRIBUTES_BYTES);
const signature = sign("sha256", attributes, privateKey);

function run(ms: number): { messagesPerSecond: number; cpuMicros: number } {
  const before = process.cpuUsage();
  const begin = performance.now();
  let count = 0;
  let passed = 0;
  while (passed < ms) {
    for (let i = 0; i < 100; i++) {
      if (!verify("sha256", attributes, publicKey, signature)) throw new Error("it does not verify");
    }
    count += 100;
    passed = performance.now() - begin;
  }
  const { user, system } = process.cpuUsage(before);
  return { messagesPerSecond: 1000 * count / passed, cpuMicros: (user + system) / count };
}

run(300);
console.log(JSON.stringify(run(1000 * seconds)));
