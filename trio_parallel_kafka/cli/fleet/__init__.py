"""``trio-parallel-kafka run``: one member of a consumer group, or a fleet of them.

Who is there
------------

- A **member** is one consumer with its handler: :mod:`.member`. One that is alone lives in this very process
  (:mod:`.alone`); of several, each lives in a process of its own (:mod:`.linked`). Each reads its configuration from
  where the command line says (:mod:`.source`).
- The **supervisor** (:mod:`.supervisor`) has a **keeper** (:mod:`.keeper`) for each member, which sees it through one
  life (:mod:`.life`) after the other: it starts its process again when that dies.
- Between supervisor and member there is a **link** (:mod:`.link`), a pair of sockets. The member sends reports through
  it (:mod:`.report`). Its other direction carries nothing: its end asks the member to drain, and comes by itself when
  the supervisor dies. So there are no orphans, and a drain asked for twice, by the link and by a signal, is one.
- The **roster** (:mod:`.roster`) knows what each member said last, and merges that into the **statistics**
  (:mod:`.statistics`) that are shown (:mod:`.showing`): printed, without waiting for whoever reads (:mod:`.outputs`),
  and written to the status file (:mod:`.status_file`), which health checks judge (:mod:`.vitals`).
"""

from __future__ import annotations
