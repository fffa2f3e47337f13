export const ROOT: string
/** The path of redis-server, installed from Debian when this user may; else throws with the command that does it. */
export function ensureRedisServer(log: (line: string) => void): string
/** The path of etcd: installed, or unpacked into the checkout, from Debian; else throws with the command that does it. */
export function ensureEtcdServer(log: (line: string) => void): string
/** The path of libfaketime, unpacked into the checkout from Debian where it is missing; else throws with the command that does it. */
export function ensureFaketime(log: (line: string) => void): string
/** The paths of both, unpacked into the checkout from Debian where they are missing; else throws with the command that does it. */
export function ensurePrometheus(log: (line: string) => void): { prometheus: string; promtool: string }
