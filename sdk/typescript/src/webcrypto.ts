// Hands Node's WebCrypto in. Only what runs on Node and its kin imports this.
import { webcrypto } from "node:crypto";

import { provideCrypto } from "./crypto.js";

provideCrypto(webcrypto as unknown as Crypto);
