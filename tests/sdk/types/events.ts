// Made by `tidegate codegen typescript` from the project's event types. Do not edit it: run that again.
//
// Where this file is part of the program, `ingest` of @tidegate/sdk takes these types of events only, each
// with its payload.
/* eslint-disable */

import "@tidegate/sdk";

declare module "@tidegate/sdk" {
  interface EventMap {
    "123.numeric": Event123Numeric;
    /** Its name is one that the file has already. */
    "event.map": EventMap2;
    /**
     * A feature that signals expansion was used.
     * Group: usage
     * @example {"user_id":"u-1","feature":"csv.export","count":1,"plan":"pro"}
     */
    "feature.used": FeatureUsed;
    /** Arrays and tuples. */
    "geo.moved": GeoMoved;
    "odd.names": OddNames;
    /** Combinations. */
    "order.completed": OrderCompleted;
    /** Objects that are open. */
    "prefs.changed": PrefsChanged;
    /** Without a schema, the payload may be anything. */
    "unregistered.schema": UnregisteredSchema;
    /** Another spelling: the names of types must differ. */
    "user.signed-up": UserSignedUp;
    /**
     * Someone signed up: who they are, which plan they picked, and where they came from.
     * Group: accounts
     * @example {"user_id":"u-1","email":"ada@acme.com","plan":"pro","source":"marketing-site"}
     */
    "user.signed_up": UserSignedUp2;
  }
}

/** The payload of `123.numeric`. */
export type Event123Numeric = number;

/** The payload of `event.map`. */
export interface EventMap2 {
  ok: boolean;
}

/** The payload of `feature.used`. */
export interface FeatureUsed {
  user_id: string;
  /** feature key */
  feature: string;
  /** uses in window */
  count: number;
  plan: string;
}

/** The payload of `geo.moved`. */
export interface GeoMoved {
  position: [number, number, number?];
  track?: GeoMovedPoint[];
  old?: [string, ...(number | null)[]];
  tags?: ("a" | "b")[];
}

/** Somewhere. */
export interface GeoMovedPoint {
  lat: number;
  lon: number;
}

/** The payload of `odd.names`. */
export interface OddNames {
  "user-id": string;
  "a b"?: 1;
  "1st"?: null;
  /** @deprecated */
  class?: string;
  $ref?: string;
  __proto__?: string;
  "é"?: string;
  ""?: string;
  "quote\"d\\"?: "*/ \u2028 end";
}

/** The payload of `order.completed`. */
export type OrderCompleted = OrderCompletedBase & {
  payment: {
    kind: "card";
    last4: string;
  } | {
    kind: "invoice";
    /** Format: `date` */
    due?: string;
  };
  coupon?: string | null;
  note?: string | null;
  tree?: OrderCompletedTree;
};

export interface OrderCompletedBase {
  /** Format: `uuid` */
  id: string;
  /** An integer. */
  total: number;
}

export interface OrderCompletedTree {
  name: string;
  children?: OrderCompletedTree[];
}

/** The payload of `prefs.changed`. */
export interface PrefsChanged {
  labels?: {
    [key: string]: string;
  };
  scores?: {
    total?: number;
    [key: string]: number | undefined;
  };
  anything?: {
    [key: string]: unknown;
  };
  by_pattern?: {
    [key: string]: unknown;
  };
  nothing?: {
    [key: string]: never;
  };
  list?: PrefsChanged;
}

/** The payload of `unregistered.schema`. */
export type UnregisteredSchema = unknown;

/** The payload of `user.signed-up`. */
export interface UserSignedUp {
  id: string;
}

/** What is known at the moment of signing up. */
export interface UserSignedUp2 {
  /** your internal id */
  user_id: string;
  /** Format: `email` */
  email: string;
  plan: "free" | "pro" | "scale";
  /** where they came from */
  source: string;
  /** Format: `date-time` */
  created_at?: string;
}
