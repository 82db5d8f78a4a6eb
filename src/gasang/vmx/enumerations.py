"""Exit reasons, types of events, activity states. Their members are those of `enumerations.pyi`."""

from __future__ import annotations

from gasang.vmx.names import Named, members

ExitReason = Named("ExitReason", members("ExitReason"), module=__name__)
ExitReason.__doc__ = "Why a VM exit happened: the basic exit reasons (SDM vol. 3, appendix C)."
EventType = Named("EventType", members("EventType"), module=__name__)
EventType.__doc__ = "Types of events that are injected or intercepted (SDM vol. 3, 25.8.3, 25.9.2)."
ActivityState = Named("ActivityState", members("ActivityState"), module=__name__)
ActivityState.__doc__ = "What a guest does when it is entered (SDM vol. 3, 25.4.2)."
