export const ROOT: string
/** The path of redis-server, installed from Debian when this user may; else throws with the command that does it. */
export function ensureRedisServer(say: (line: string) => void): string
/** The path of etcd: installed, or unpacked into the checkout, from Debian; else throws with the command that does it. */
export function ensureEtcdServer(say: (line: string) => void): string
