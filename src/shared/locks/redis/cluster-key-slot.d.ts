declare module 'cluster-key-slot' {
  /** Returns the Cluster slot of a key, 0 to 16383. */
  export default function keySlot(key: string): number
}
