"""The demo: a small helpdesk whose tickets, chats and people move by themselves, for a page that shows everything live.

cast      who is there and what they say
line      a robot's client: the native protocol over no wire
helpdesk  what a back end would have: the tickets, and who the visitor is
stories   what the robots do
"""

from insightdesk_rt.demo.stories import Demo

__all__ = ["Demo"]
