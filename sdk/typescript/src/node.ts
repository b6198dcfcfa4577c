// The package as Node finds it.
import "./webcrypto.js";

export * from "./index.js";
