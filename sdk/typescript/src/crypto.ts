// The runtime's WebCrypto. Node 18 has it, but not as a global: there `node.ts` hands it in.

let given: Crypto | undefined;

/** For runtimes whose WebCrypto is no global. A global one counts first. */
export function provideCrypto(crypto: Crypto): void {
  given = crypto;
}

export function webCrypto(): Crypto {
  const found = (globalThis as { crypto?: Crypto }).crypto ?? given;
  if (!found?.subtle && !found?.getRandomValues) {
    throw new Error("this runtime has no WebCrypto");
  }
  return found;
}
