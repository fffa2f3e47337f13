CREATE TABLE "lab_counts" (
	"ref" text COLLATE "C" PRIMARY KEY NOT NULL,
	"start" bigint NOT NULL,
	"unsafe" bigint NOT NULL,
	"side" text,
	CONSTRAINT "lab_counts_side_check" CHECK ("lab_counts"."side" IN ('unsafe', 'safe'))
);
--> statement-breakpoint
CREATE TABLE "lab_drivers" (
	"id" text PRIMARY KEY NOT NULL,
	"rider" text,
	"rides" integer DEFAULT 0 NOT NULL
);
--> statement-breakpoint
CREATE TABLE "lab_orders" (
	"id" text PRIMARY KEY NOT NULL,
	"guarded_by" smallint,
	"unguarded_by" smallint,
	"unguarded_writes" integer DEFAULT 0 NOT NULL,
	"fence" bigint DEFAULT 0 NOT NULL
);
