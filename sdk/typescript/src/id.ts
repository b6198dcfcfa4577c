// Event ids: `evt_` and a UUIDv7 in 26 digits of Crockford's base 32 (TypeID).
import { webCrypto } from "./crypto.js";

const ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz";

/** 48 bits of time and 74 that nobody can guess. */
export function newEventId(now: number = Date.now()): string {
  const bytes = webCrypto().getRandomValues(new Uint8Array(16));
  let millis = now;
  for (let place = 5; place >= 0; place--) {
    bytes[place] = millis % 256;
    millis = Math.floor(millis / 256);
  }
  bytes[6] = 0x70 | (bytes[6]! & 0x0f);
  bytes[8] = 0x80 | (bytes[8]! & 0x3f);
  return `evt_${base32(bytes)}`;
}

/** 26 digits hold 130 bits, so the first two are zero. */
function base32(bytes: Uint8Array): string {
  let text = "";
  let bits = 0;
  let held = 2;
  for (const byte of bytes) {
    bits = (bits << 8) | byte;
    held += 8;
    while (held >= 5) {
      held -= 5;
      text += ALPHABET[(bits >> held) & 31];
    }
    bits &= (1 << held) - 1;
  }
  return text;
}
